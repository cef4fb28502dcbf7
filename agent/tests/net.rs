//! The node's network with real namespaces, links and rules. Needs root; says so and passes
//! without. Everything is made inside namespaces of the test's own.

mod net {
    mod lab;
    mod pod;
    mod proxy;
    mod routes;
}
