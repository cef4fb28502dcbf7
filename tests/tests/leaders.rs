//! Leader election against the real API server, under virtual time: one leads at a time, who
//! ends in order hands over at once, and who vanishes is waited for.

use std::sync::Arc;
use std::time::Duration;

use client::{CancellationToken, LeaseName, Rng, lead};
use parking_lot::Mutex;
use proto::view::lease::Lease;
use tests::server::Server;
use tests::world::World;

struct Candidate {
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn candidate(world: &World, name: &'static str, log: &Arc<Mutex<Vec<String>>>) -> Candidate {
    let (client, clock, log) = (world.client.clone(), world.clock.clone(), log.clone());
    let shutdown = CancellationToken::new();
    let ending = shutdown.clone();
    let task = tokio::spawn(async move {
        let said = |word: &str| log.lock().push(format!("{name} {word}"));
        let candidate = client::Candidate::new(LeaseName::system("test"), name.into());
        let outcome = lead(client, clock, Rng::seeded(1), candidate, ending, |ending| async {
            said("leads");
            ending.cancelled_owned().await;
            said("ends");
        });
        if outcome.await.is_err() {
            said("lost");
        }
    });
    Candidate { shutdown, task }
}

#[tokio::test(start_paused = true)]
async fn one_leads_at_a_time() {
    let world = World::new(5, 0).await;
    let log = Arc::new(Mutex::new(Vec::new()));
    let a = candidate(&world, "a", &log);
    world.clock.sleep(Duration::from_secs(1)).await;
    let b = candidate(&world, "b", &log);
    world.clock.sleep(Duration::from_secs(120)).await;
    assert_eq!(*log.lock(), ["a leads"], "the leader renews and the other waits");

    a.shutdown.cancel();
    world.clock.sleep(Duration::from_secs(5)).await;
    assert_eq!(*log.lock(), ["a leads", "a ends", "b leads"], "handed over without waiting");
    let lease = world.client.get::<Lease>("kube-system", "test").await.unwrap();
    assert_eq!((lease.spec.holder_identity.as_str(), lease.spec.lease_transitions), ("b", 1));

    let c = candidate(&world, "c", &log);
    b.task.abort();
    world.clock.sleep(Duration::from_secs(10)).await;
    assert_eq!(log.lock().len(), 3, "who vanished may still be at work");
    world.clock.sleep(Duration::from_secs(12)).await;
    assert_eq!(log.lock().last().unwrap(), "c leads");

    // Someone takes the Lease by force: the leader notices and stops.
    let mut stolen = world.client.get::<Lease>("kube-system", "test").await.unwrap().value();
    stolen["spec"]["holderIdentity"] = "thief".into();
    world.client.update::<Lease>("kube-system", "test", "", &stolen).await.unwrap();
    world.clock.sleep(Duration::from_secs(5)).await;
    assert_eq!(log.lock().last().unwrap(), "c lost");
    drop(c);
}

#[test]
fn a_server_without_a_controller_is_ready_without_its_work() {
    let without = ["--ephemeral", "--controllers", "*,-serviceaccount-controller"];
    let server = Server::start(&without);
    let accounts = server.ctl(&["get", "serviceaccounts", "--all-namespaces"]).ok();
    assert!(accounts.is_empty(), "{accounts}");
}
