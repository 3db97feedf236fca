//! One API server over one store, for trying clients by hand: `standalone DATA_DIR PORT KUBECONFIG` writes a kubeconfig and serves until Ctrl-C.

#[path = "../tests/support/mod.rs"]
mod support;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let data_dir = arguments.next().expect("a data directory");
    let port = arguments.next().and_then(|port| port.parse().ok()).unwrap_or(0);
    let kubeconfig = arguments.next().unwrap_or_else(|| format!("{data_dir}/kubeconfig"));
    std::fs::create_dir_all(&data_dir).expect("the data directory");
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let server = support::Standalone::start(std::path::Path::new(&data_dir), port).await;
    std::fs::write(&kubeconfig, server.kubeconfig().to_string()).expect("the kubeconfig");
    tracing::info!(address = %server.handle.addresses()[0], "Serving");
    tokio::signal::ctrl_c().await.expect("a signal");
    server.stop().await;
}
