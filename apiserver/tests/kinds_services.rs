//! Service addresses and node ports over a real store: given once, honoured, taken back, repaired.

use std::collections::HashSet;
use std::sync::Arc;

use apiserver::kinds::service::{pool::Pool, range::Networks};
use apiserver::kinds::{self, Change, Context, Reservation};
use apiserver::store::memory::MemoryStore;
use apiserver::store::{Guard, Op, Outcome, Range, Store, Txn};
use bytes::Bytes;
use proto::kind::SERVICE;
use proto::status::Status;
use proto::time::Time;
use serde_json::{Value, json};

/// An API server's way to the store, as far as Services need it.
struct Server {
    store: Arc<dyn Store>,
    pool: Pool,
}

impl Server {
    fn over(store: &Arc<dyn Store>, addresses: &str, ports: &str) -> Server {
        let (networks, ports): (Networks, _) = (addresses.parse().unwrap(), ports.parse().unwrap());
        Server { store: store.clone(), pool: Pool::new(store.clone(), networks, ports) }
    }

    fn new(addresses: &str, ports: &str) -> Server {
        Server::over(&(Arc::new(MemoryStore::new()) as Arc<dyn Store>), addresses, ports)
    }

    async fn reserve(&self, change: Change<'_>, random: u64) -> Result<Reservation, Status> {
        let (row, now, user) = (&SERVICE, Time::from_unix(0), &proto::user::User::default());
        let ctx = Context { row, now, random, user, subresource: "" };
        kinds::strategy(&SERVICE).reserve(change, &ctx, &self.pool).await
    }

    async fn commit(
        &self,
        name: &str,
        expected: u64,
        value: Option<&Value>,
        reservation: Reservation,
    ) -> bool {
        let key: Arc<str> = SERVICE.key("n", name).into();
        let op = match value {
            Some(value) => Op::Put { key: key.clone(), value: Bytes::from(value.to_string()) },
            None => Op::Delete { key: key.clone() },
        };
        let mut txn = Txn { guards: vec![Guard { key, expected }], ops: vec![op] };
        txn.guards.extend(reservation.guards);
        txn.ops.extend(reservation.ops);
        matches!(self.store.transact(txn).await.unwrap(), Outcome::Committed(_))
    }

    async fn create(&self, name: &str, spec: Value, random: u64) -> Result<Value, Status> {
        for attempt in 0.. {
            let mut service = json!({"metadata": {"name": name, "namespace": "n"}, "spec": spec});
            let random = random.wrapping_add(attempt);
            let reservation = self.reserve(Change::Create(&mut service), random).await?;
            if self.commit(name, 0, Some(&service), reservation).await {
                return Ok(service);
            }
        }
        unreachable!("the loop ends when the store lets it")
    }

    async fn update(&self, old: &Value, mut new: Value) -> Result<Value, Status> {
        let name = old["metadata"]["name"].as_str().unwrap();
        let stored = self.store.get(&SERVICE.key("n", name), None).await.unwrap().value.unwrap();
        let reservation = self.reserve(Change::Update(&mut new, old), 1).await?;
        assert!(self.commit(name, stored.mod_revision, Some(&new), reservation).await);
        Ok(new)
    }

    async fn delete(&self, old: &Value) {
        let name = old["metadata"]["name"].as_str().unwrap();
        let stored = self.store.get(&SERVICE.key("n", name), None).await.unwrap().value.unwrap();
        let reservation = self.reserve(Change::Delete(old), 1).await.unwrap();
        assert!(self.commit(name, stored.mod_revision, None, reservation).await);
    }

    /// The addresses that are held.
    async fn held(&self) -> Vec<String> {
        let prefix = "/registry/ipaddresses/";
        let page = self.store.list(Range { prefix, ..Range::default() }).await.unwrap();
        page.items.iter().map(|item| item.key[prefix.len()..].to_string()).collect()
    }
}

fn cluster_ip() -> Value {
    json!({"type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP"}]})
}

fn node_port(number: u64) -> Value {
    let mut spec = json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]});
    if number != 0 {
        spec["ports"][0]["nodePort"] = number.into();
    }
    spec
}

#[tokio::test]
async fn addresses_are_given_once_by_any_number_of_servers() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let servers: Vec<Arc<Server>> =
        (0..4).map(|_| Arc::new(Server::over(&store, "10.96.0.0/24", "30000-32767"))).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..200u64 {
        let server = servers[index as usize % 4].clone();
        // Random numbers that collide, to provoke the conflicts.
        let spec = if index % 2 == 0 { cluster_ip() } else { node_port(0) };
        tasks.spawn(
            async move { server.create(&format!("s{index}"), spec, index % 5).await.unwrap() },
        );
    }
    let services = tasks.join_all().await;
    let mut addresses = HashSet::new();
    let mut ports = HashSet::new();
    for service in &services {
        let spec = &service["spec"];
        assert_eq!(spec["clusterIPs"], json!([spec["clusterIP"]]));
        assert_eq!(spec["ipFamilies"], json!(["IPv4"]));
        assert!(addresses.insert(spec["clusterIP"].as_str().unwrap().to_string()));
        if let Some(port) = spec["ports"][0]["nodePort"].as_u64() {
            assert!((30000..=32767).contains(&port) && ports.insert(port));
        }
    }
    assert_eq!((addresses.len(), ports.len()), (200, 100));
    let held: HashSet<String> = servers[0].held().await.into_iter().collect();
    assert_eq!(held, addresses);
    for service in &services {
        servers[1].delete(service).await;
    }
    assert!(servers[0].held().await.is_empty());
}

/// Everyone waits for the one object of the node ports, so that a try is enough.
#[tokio::test]
async fn a_server_does_not_lose_to_itself() {
    let server = Arc::new(Server::new("10.96.0.0/16", "30000-32767"));
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..64u64 {
        let server = server.clone();
        tasks.spawn(async move {
            let name = format!("s{index}");
            let metadata = json!({"name": name, "namespace": "n"});
            let mut service = json!({"metadata": metadata, "spec": node_port(0)});
            let change = Change::Create(&mut service);
            let reservation = server.reserve(change, index * 7_777_777).await.unwrap();
            tokio::task::yield_now().await;
            server.commit(&name, 0, Some(&service), reservation).await
        });
    }
    assert_eq!(tasks.join_all().await, [true; 64]);
}

#[tokio::test]
async fn a_small_range_is_used_up_and_then_full() {
    let server = Server::new("10.0.0.0/29", "30000-30001");
    for index in 0..6 {
        server.create(&format!("s{index}"), cluster_ip(), 3).await.unwrap();
    }
    let status = server.create("more", cluster_ip(), 3).await.unwrap_err();
    assert_eq!(status.code, 500);
    assert!(status.message.ends_with("failed to allocate a serviceIP: range is full"));
    let server = Server::new("10.0.0.0/16", "30000-30001");
    for index in 0..2 {
        server.create(&format!("s{index}"), node_port(0), 3).await.unwrap();
    }
    let status = server.create("more", node_port(0), 3).await.unwrap_err();
    assert!(status.message.ends_with("failed to allocate a nodePort: range is full"));
}

#[tokio::test]
async fn what_is_asked_for_is_given_or_refused() {
    let server = Server::new("10.96.0.0/16", "30000-32767");
    let asked = |address: &str| {
        let mut spec = cluster_ip();
        spec["clusterIP"] = address.into();
        spec["clusterIPs"] = json!([address]);
        spec
    };
    let service = server.create("a", asked("10.96.0.10"), 0).await.unwrap();
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.10");
    let taken = server.create("b", asked("10.96.0.10"), 0).await.unwrap_err();
    assert_eq!(taken.code, 422);
    assert_eq!(
        taken.message,
        "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.10\"]: failed to \
         allocate IP 10.96.0.10: provided IP is already allocated"
    );
    let outside = server.create("b", asked("10.97.0.1"), 0).await.unwrap_err();
    assert!(outside.message.ends_with("the provided network does not match the current range"));

    let mut six = cluster_ip();
    six["ipFamilies"] = json!(["IPv6"]);
    let status = server.create("b", six, 0).await.unwrap_err();
    assert!(
        status.message.ends_with(
            "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"
        )
    );

    server.create("p", node_port(30080), 0).await.unwrap();
    let taken = server.create("q", node_port(30080), 0).await.unwrap_err();
    assert_eq!(
        taken.message,
        "Service \"q\" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is \
         already allocated"
    );
    let outside = server.create("q", node_port(80), 0).await.unwrap_err();
    assert_eq!(
        outside.message,
        "Service \"q\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is \
         not in the valid range. The range of valid ports is 30000-32767"
    );
}

#[tokio::test]
async fn a_cluster_of_the_other_family() {
    let server = Server::new("fd00::/108", "30000-32767");
    let service = server.create("s", cluster_ip(), 0).await.unwrap();
    assert_eq!(service["spec"]["ipFamilies"], json!(["IPv6"]));
    assert!(service["spec"]["clusterIP"].as_str().unwrap().starts_with("fd00::"));
}

#[tokio::test]
async fn without_being_asked_the_first_addresses_stay_free() {
    let server = Server::new("10.96.0.0/16", "30000-32767");
    assert_eq!(server.pool.first_address().to_string(), "10.96.0.1");
    for index in 0..50 {
        let name = format!("s{index}");
        let service = server.create(&name, node_port(0), index * 77_777).await.unwrap();
        let address = service["spec"]["clusterIP"].as_str().unwrap();
        assert!(!address.starts_with("10.96.0."), "{address}");
        assert!(service["spec"]["ports"][0]["nodePort"].as_u64().unwrap() >= 30086);
    }
}

#[tokio::test]
async fn changes_of_type_take_and_give_back() {
    let server = Server::new("10.96.0.0/16", "30000-32767");
    let headless = json!({"type": "ClusterIP", "clusterIP": "None", "ports": []});
    let headless = server.create("h", headless, 0).await.unwrap();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    assert!(server.held().await.is_empty());

    let plain = server.create("s", cluster_ip(), 0).await.unwrap();
    let mut local = plain.clone();
    local["spec"]["type"] = "LoadBalancer".into();
    local["spec"]["externalTrafficPolicy"] = "Local".into();
    local["spec"]["ports"].as_array_mut().unwrap().push(json!({"port": 80, "protocol": "UDP"}));
    let local = server.update(&plain, local).await.unwrap();
    let spec = &local["spec"];
    assert_eq!(spec["clusterIP"], plain["spec"]["clusterIP"]);
    let (first, second) = (&spec["ports"][0]["nodePort"], &spec["ports"][1]["nodePort"]);
    assert_eq!(first, second, "one port number for both protocols");
    let health = spec["healthCheckNodePort"].as_u64().unwrap();
    assert_ne!(first.as_u64().unwrap(), health);

    let port = first.as_u64().unwrap();
    let status = server.create("t", node_port(port), 0).await.unwrap_err();
    assert_eq!(status.code, 422);
    let named = json!({"metadata": plain["metadata"], "spec": {
        "type": "ExternalName", "externalName": "example.com",
    }});
    server.update(&local, named).await.unwrap();
    assert!(server.held().await.is_empty());
    server.create("t", node_port(port), 0).await.unwrap();
    server.create("u", node_port(health), 0).await.unwrap();
}

#[tokio::test]
async fn no_address_comes_out_of_a_network_that_goes() {
    let server = Server::new("10.96.0.0/16", "30000-32767");
    let write = async |metadata: Value| {
        let cidr = json!({"metadata": metadata, "spec": {"cidrs": ["10.96.0.0/16", "fd00::/64"]}});
        let (key, value) = ("/registry/servicecidrs/kubernetes".into(), cidr.to_string().into());
        let txn = Txn { guards: Vec::new(), ops: vec![Op::Put { key, value }] };
        server.store.transact(txn).await.unwrap();
    };
    write(json!({"name": "kubernetes"})).await;
    let mut service = json!({"metadata": {"name": "s", "namespace": "n"}, "spec": cluster_ip()});
    let reservation = server.reserve(Change::Create(&mut service), 1).await.unwrap();
    assert!(service["spec"]["clusterIP"].as_str().unwrap().starts_with("10.96."));
    write(json!({"name": "kubernetes", "deletionTimestamp": "2026-01-01T00:00:00Z"})).await;
    assert!(!server.commit("s", 0, Some(&service), reservation).await);
    let full = server.create("s", cluster_ip(), 1).await.unwrap_err();
    assert!(full.message.ends_with("failed to allocate a serviceIP: range is full"));
}

#[tokio::test]
async fn repair_makes_the_allocations_what_the_services_say() {
    let server = Server::new("10.96.0.0/16", "30000-32767");
    let kept = server.create("kept", node_port(30001), 0).await.unwrap();
    let address = kept["spec"]["clusterIP"].as_str().unwrap().to_string();
    let ours = json!({"metadata": {"labels": {
        "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}}});
    for (ip, record) in [("10.96.7.7", &ours), ("10.96.7.8", &json!({}))] {
        let record = Bytes::from(record.to_string());
        let leaked = Txn::create(format!("/registry/ipaddresses/{ip}"), record);
        server.store.transact(leaked).await.unwrap();
    }
    let lost = Txn {
        guards: Vec::new(),
        ops: vec![
            Op::Delete { key: format!("/registry/ipaddresses/{address}").into() },
            Op::Delete { key: "/registry/ranges/servicenodeports".into() },
        ],
    };
    server.store.transact(lost).await.unwrap();
    server.pool.repair(Time::from_unix(0), 1).await.unwrap();
    let mut held = [address, "10.96.7.8".to_string()];
    held.sort();
    assert_eq!(server.held().await, held, "what others put there stays");
    let status = server.create("other", node_port(30001), 0).await.unwrap_err();
    assert!(status.message.ends_with("provided port is already allocated"));
    let before = server.store.revision().await.unwrap();
    server.pool.repair(Time::from_unix(0), 1).await.unwrap();
    assert_eq!(
        server.store.revision().await.unwrap(),
        before,
        "nothing to repair, nothing written"
    );
}
