//! A registry on loopback over plain HTTP: `cargo run -p trierarch-images --example registry -- STORE_DIRECTORY [PORT]`.
//! It prints its address; stop it with Ctrl-C. Meant for trying the registry with skopeo and other clients; there is no authentication.

mod server;

use std::io::Write;

use trierarch_images::Store;
use trierarch_images::registry::{Registry, RegistryConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: registry STORE_DIRECTORY [PORT]")?;
    let port: u16 = arguments.next().map_or(Ok(0), |text| text.parse())?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    let registry = Registry::new(Store::open(directory)?, RegistryConfig::default());
    server::serve(listener, registry, server::pass_everything).await;
    Ok(())
}
