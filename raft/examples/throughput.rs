//! Prints puts per second of three members in one process over loopback TCP without TLS, at 1, 64 and 1,024 requests in flight.
//!
//! `cargo run -p trierarch-raft --example throughput [seconds per step] [value bytes]`
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use trierarch_raft::{Cause, Member, MemberRole, Op, Store, StoreConfig, Txn, TxnId};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let seconds = arguments.next().transpose()?.unwrap_or(5);
    let value_bytes = usize::try_from(arguments.next().transpose()?.unwrap_or(256))?;
    let dir = tempfile::tempdir()?;
    let mut stores = Vec::new();
    for id in 1..=3 {
        let mut config = StoreConfig::new(id, dir.path().join(id.to_string()));
        (config.election_min, config.election_max) = (Duration::from_secs(1), Duration::from_secs(2));
        let store = Store::open(config).await?;
        if id == 1 {
            store.initialize().await?;
        } else {
            let peer_address = store.peer_address().to_string();
            let first: &Store = stores.first().ok_or("the first member is open")?;
            first.add_member(Member { id, peer_address, api_address: String::new(), role: MemberRole::Voter }, PATIENCE).await?;
        }
        stores.push(store);
    }
    let voters = |store: &Store| store.status().members.iter().filter(|member| member.role == MemberRole::Voter).count();
    while stores.iter().any(|store| voters(store) < 3) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for (through, store) in [("leader", &stores[0]), ("follower", &stores[1])] {
        for in_flight in [1, 64, 1024] {
            measure(store, through, in_flight, seconds, value_bytes).await?;
        }
    }
    for store in &stores {
        store.close().await;
    }
    Ok(())
}

async fn measure(store: &Store, through: &str, in_flight: u64, seconds: u64, value_bytes: usize) -> Result<(), Box<dyn std::error::Error>> {
    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let syncs = store.status().log_syncs;
    #[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
    let start = Instant::now();
    let clients: Vec<_> = (0..in_flight)
        .map(|client| {
            let (store, done, stop) = (store.clone(), Arc::clone(&done), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut number = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    let op = Op::Put {
                        key: format!("bench/values/{client}/{}", number % 100).into(),
                        value: vec![b'x'; value_bytes].into(),
                        split: 0,
                        terms: Vec::new(),
                    };
                    let txn = Txn { id: TxnId::random(), guards: Vec::new(), ops: vec![op], cause: Cause::default() };
                    store.txn(txn, PATIENCE).await?;
                    done.fetch_add(1, Ordering::Relaxed);
                    number += 1;
                }
                Ok::<(), trierarch_raft::StoreError>(())
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (count, elapsed) = (done.load(Ordering::Relaxed), start.elapsed());
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await??;
    }
    let syncs = store.status().log_syncs - syncs;
    println!(
        "through the {through}, {in_flight:>4} in flight, {value_bytes} bytes: {:>7.0} puts/s, {:.1} puts per sync of the log",
        count as f64 / elapsed.as_secs_f64(),
        count as f64 / syncs.max(1) as f64
    );
    Ok(())
}
