//! What a supervisor has from the one before it, and which of it its settings still name.

use anyhow::{Context as _, Result, anyhow};

use crate::{
    config::{Config, ListenAddress, Listener, Server},
    handover::{
        line::Line,
        offer::{Offer, Offered, OfferedListener, OfferedServer},
    },
    sys::Fd,
};

use super::control_socket::ControlSocket;

/// Another supervisor's offer, which may still come to nothing.
pub struct Inherited {
    /// What it told.
    pub offer: Offer,
    /// The descriptors that came with it.
    pub fds: Offered<Fd>,
}

impl Inherited {
    /// Receives the offer.
    ///
    /// # Errors
    /// It does not come, or is not understood.
    pub fn receive(line: Line) -> Result<Self> {
        let (document, fds) = line.receive_document().context("the running proxy makes no offer")?;
        let offer = Offer::decode(&document).map_err(|why| anyhow!(why))?;
        let fds = offer.descriptors(&fds).map_err(|why| anyhow!(why))?;
        Ok(Self { offer, fds })
    }

    /// Adds to the settings what they do not name any more and what may still be open.
    ///
    /// # Errors
    /// A listener's address is not understood.
    pub fn retire(&self, config: &mut Config) -> Result<()> {
        for offered in &self.offer.listeners {
            let is_done = offered.sockets == 0 && offered.open == 0;
            if self.listener(config, offered).is_none() && !is_done {
                let address = ListenAddress::parse(&offered.address).map_err(|error| anyhow!("{error}"))?;
                config.listeners.push(Listener { address, v6_only: offered.v6_only, is_retired: true });
            }
        }
        for offered in &self.offer.servers {
            let is_done = offered.is_retired && offered.open == 0;
            if self.server(config, offered).is_none() && !is_done {
                let (name, address) = (offered.name.clone(), offered.address);
                config.servers.push(Server { name, address, is_retired: true });
            }
        }
        Ok(())
    }

    /// The number that an offered listener has in the settings.
    pub fn listener(&self, config: &Config, offered: &OfferedListener) -> Option<u32> {
        let is_it = |listener: &Listener| is_same(listener, offered);
        config.listeners.iter().position(is_it).map(|number| number as u32)
    }

    /// The number that an offered server has in the settings.
    pub fn server(&self, config: &Config, offered: &OfferedServer) -> Option<u32> {
        let is_it = |server: &Server| server.address == offered.address;
        config.servers.iter().position(is_it).map(|number| number as u32)
    }

    /// The listening sockets of a listener of the settings; none if it is new.
    pub fn sockets(&self, listener: &Listener) -> Vec<Fd> {
        let offered = self.offer.listeners.iter().zip(&self.fds.sockets);
        let own = offered.filter(|(offered, _)| is_same(listener, offered));
        own.flat_map(|(_, sockets)| sockets.iter().copied()).collect()
    }

    /// The control socket, if the settings leave it where it is.
    pub fn control_socket(&self, config: &Config) -> Option<ControlSocket> {
        let is_same = config.control == self.offer.control;
        is_same.then(|| ControlSocket::inherit(&config.control, self.fds.control))
    }

    /// The metrics listener, likewise.
    pub fn metrics(&self, config: &Config) -> Option<Fd> {
        self.fds.metrics.filter(|_| config.metrics == self.offer.metrics)
    }
}

fn is_same(listener: &Listener, offered: &OfferedListener) -> bool {
    listener.address.to_string() == offered.address && listener.v6_only == offered.v6_only
}
