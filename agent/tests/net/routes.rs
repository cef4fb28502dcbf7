//! Routes of our protocol number, beside those of others.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use agent::net::netlink::{Netlink, Request, Route};
use agent::net::routes::apply;

use super::lab::{Host, root};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_our_routes_change() {
    if !root() {
        return;
    }
    let (a, b) = (Host::new(), Host::new());
    let ip = |last| Ipv4Addr::new(10, 79, 0, last);
    a.connect("eth0", ip(1), &b, ("eth0", ip(2))).await;
    a.run(move || {
        const STATIC: u8 = 4;
        let netlink = Netlink::open().unwrap();
        let foreign = Route {
            destination: "10.50.9.0/24".parse().unwrap(),
            gateway: Some(ip(2)),
            link: None,
        };
        netlink.apply(vec![Request::route(&foreign, STATIC)]).unwrap();
        let set = |routes: &[(&str, u8)], within: Option<&str>| {
            let wanted: BTreeMap<_, _> =
                routes.iter().map(|(cidr, last)| (cidr.parse().unwrap(), ip(*last))).collect();
            apply(&wanted, within.map(|cidr| cidr.parse().unwrap())).unwrap()
        };
        let now = || {
            let mut routes = netlink.routes(None).unwrap();
            routes.sort();
            let text = |route: &Route| Some(format!("{} {}", route.destination, route.gateway?));
            routes.iter().filter_map(text).collect::<Vec<_>>()
        };
        let nowhere = set(&[("10.50.1.0/24", 2), ("10.50.2.0/24", 2)], None);
        assert!(nowhere.is_empty(), "{nowhere:?}");
        let foreign = "10.50.9.0/24 10.79.0.2";
        assert_eq!(now(), ["10.50.1.0/24 10.79.0.2", "10.50.2.0/24 10.79.0.2", foreign]);
        // One goes, one gets another gateway.
        set(&[("10.50.2.0/24", 3)], None);
        assert_eq!(now(), ["10.50.2.0/24 10.79.0.3", foreign]);
        // Another cluster's routes are not ours to remove, nor foreign ones.
        set(&[("10.60.1.0/24", 2)], Some("10.60.0.0/16"));
        assert_eq!(now(), ["10.50.2.0/24 10.79.0.3", foreign, "10.60.1.0/24 10.79.0.2"]);
        set(&[], Some("10.50.0.0/16"));
        assert_eq!(now(), [foreign, "10.60.1.0/24 10.79.0.2"]);
        // A node that is nowhere does not keep the others from being reached.
        let unreachable: BTreeMap<_, _> = [
            ("10.60.1.0/24".parse().unwrap(), Ipv4Addr::new(10, 99, 0, 1)),
            ("10.60.2.0/24".parse().unwrap(), ip(2)),
        ]
        .into();
        let failures = apply(&unreachable, None).unwrap();
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert!(now().contains(&"10.60.2.0/24 10.79.0.2".to_owned()));
    })
    .await;
}
