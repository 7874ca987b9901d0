//! A target that answers no SYN until it is told to: its queue is full.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// A bound socket whose queue is full until [`Dark::light`].
pub struct Dark {
    listener: Socket,
    pub address: SocketAddr,
    fillers: Vec<TcpStream>,
}

impl Dark {
    /// # Errors
    /// The queue cannot be filled.
    pub fn new() -> anyhow::Result<Dark> {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        listener.listen(0)?;
        let address = listener.local_addr()?.as_socket().ok_or_else(|| anyhow::anyhow!("no address"))?;
        let mut fillers = Vec::new();
        while let Ok(filler) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            fillers.push(filler);
            anyhow::ensure!(fillers.len() < 10, "the queue is never full");
        }
        Ok(Dark { listener, address, fillers })
    }

    /// Accepts for this long; gives the connections whose other end is still open then, without the fillers.
    pub fn light(self, time: Duration) -> anyhow::Result<usize> {
        let fillers: Vec<_> = self.fillers.iter().map(TcpStream::local_addr).collect::<Result<_, _>>()?;
        self.listener.set_nonblocking(true)?;
        self.listener.listen(64)?;
        let mut accepted: Vec<(TcpStream, SocketAddr)> = Vec::new();
        let began = Instant::now();
        while began.elapsed() < time {
            match self.listener.accept() {
                Ok((socket, from)) => {
                    let from = from.as_socket().ok_or_else(|| anyhow::anyhow!("no address"))?;
                    if !fillers.contains(&from) {
                        accepted.push((socket.into(), from));
                    }
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        let open = accepted.iter().filter(|(socket, _)| {
            let quiet = socket.set_nonblocking(true).and_then(|()| socket.peek(&mut [0]));
            quiet.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
        });
        Ok(open.count())
    }
}
