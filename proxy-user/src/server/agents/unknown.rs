//! Calls on the agents' port that are not `AgentService.Connect`.

use std::convert::Infallible;
use std::future::ready;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};

use crate::wire::method;

const SERVICE: &str = "AgentService";
const METHOD: &str = "Connect";

/// Says what is unknown, as grpc-go does, where tonic gives a status without a word.
#[derive(Clone)]
pub(super) struct TellUnknown<S>(pub S);

impl<S> Service<Request<Body>> for TellUnknown<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match method::unknown(request.uri().path(), SERVICE, METHOD) {
            None => Box::pin(self.0.call(request)),
            Some(refusal) => Box::pin(ready(Ok(Status::unimplemented(refusal).into_http()))),
        }
    }
}
