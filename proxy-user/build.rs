fn main() {
    println!("cargo:rerun-if-changed=proto/konnectivity.proto");
    let files = protox::compile(["proto/konnectivity.proto", "proto/lane.proto"], ["proto"]).expect("the .proto files compile");
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .compile_fds(files)
        .expect("the .proto files generate");
}
