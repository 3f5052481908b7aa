//! A connection between nodes, with TLS or, where the configuration says so, without.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConnection, ServerConnection, StreamOwned};

use crate::credentials::{reason, Credentials};

const BINDING_BYTES: usize = 32;
/// The longest record of TLS.
const HELLO_MAX: usize = 5 + (16 << 10);
const BINDING_LABEL: &[u8] = b"EXPORTER-pgbastion-handshake";

/// An open connection, read and written in whole by one thread.
pub enum Channel {
    Plain(TcpStream),
    Called(Box<StreamOwned<ClientConnection, TcpStream>>),
    Taken(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Channel {
    /// Open TLS on a fresh connection to `address`, whose host was resolved to `target`.
    pub fn call(
        mut stream: TcpStream,
        credentials: &Credentials,
        address: &str,
        target: SocketAddr,
    ) -> io::Result<Channel> {
        let places = places(address, Some(target));
        let name = places.first().cloned().ok_or(io::ErrorKind::InvalidInput)?;
        let mut connection = ClientConnection::new(credentials.client(places), name)
            .map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(Channel::Called(Box::new(StreamOwned::new(connection, stream))))
    }

    pub fn socket(&self) -> &TcpStream {
        match self {
            Channel::Plain(stream) => stream,
            Channel::Called(stream) => &stream.sock,
            Channel::Taken(stream) => &stream.sock,
        }
    }

    pub fn set_read_timeout(&self, wait: Option<Duration>) -> io::Result<()> {
        self.socket().set_read_timeout(wait)
    }

    /// What both sides of this connection know, and nobody on another one does; without
    /// TLS nothing.
    pub fn binding(&self) -> Vec<u8> {
        match self {
            Channel::Plain(_) => Vec::new(),
            Channel::Called(stream) => {
                exported(|out| stream.conn.export_keying_material(out, BINDING_LABEL, None))
            }
            Channel::Taken(stream) => {
                exported(|out| stream.conn.export_keying_material(out, BINDING_LABEL, None))
            }
        }
    }
}

fn exported(
    export: impl FnOnce([u8; BINDING_BYTES]) -> Result<[u8; BINDING_BYTES], rustls::Error>,
) -> Vec<u8> {
    export([0; BINDING_BYTES]).expect("the handshake is over").to_vec()
}

impl Read for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Channel::Plain(stream) => stream.read(buffer),
            Channel::Called(stream) => stream.read(buffer),
            Channel::Taken(stream) => stream.read(buffer),
        }
    }
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Channel::Plain(stream) => stream.write(bytes),
            Channel::Called(stream) => stream.write(bytes),
            Channel::Taken(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Channel::Plain(stream) => stream.flush(),
            Channel::Called(stream) => stream.flush(),
            Channel::Taken(stream) => stream.flush(),
        }
    }
}

/// A connection that came in and is not proven yet: nobody waits for it.
pub enum Incoming {
    Plain(TcpStream),
    Tls(Box<ServerConnection>, TcpStream),
}

impl Incoming {
    pub fn new(
        stream: TcpStream,
        credentials: Option<&Credentials>,
    ) -> io::Result<Incoming> {
        let Some(credentials) = credentials else {
            return Ok(Incoming::Plain(stream));
        };
        let connection =
            ServerConnection::new(credentials.server()).map_err(io::Error::other)?;
        Ok(Incoming::Tls(Box::new(connection), stream))
    }

    pub fn socket(&self) -> &TcpStream {
        match self {
            Incoming::Plain(stream) | Incoming::Tls(_, stream) => stream,
        }
    }

    /// Read what has come, after whatever of TLS has to happen first.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (connection, stream) = match self {
            Incoming::Plain(stream) => return stream.read(buffer),
            Incoming::Tls(connection, stream) => (connection, stream),
        };
        match connection.reader().read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
        if connection.read_tls(stream)? == 0 {
            return Ok(0);
        }
        let processed = connection.process_new_packets();
        // Also when it failed: the other side is told why.
        let written = flush(connection, stream);
        processed.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        written?;
        connection.reader().read(buffer)
    }

    /// Send a few bytes: they fit into what the kernel takes without waiting.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Incoming::Plain(stream) => stream.write_all(bytes),
            Incoming::Tls(connection, stream) => {
                connection.writer().write_all(bytes)?;
                flush(connection, stream)
            }
        }
    }

    /// Say to somebody who speaks TLS that nobody here does, before the door closes:
    /// what is left unread would take the words back.
    pub fn turn_away(&mut self) {
        let Incoming::Plain(stream) = self else { return };
        let mut hello = [0; HELLO_MAX];
        let _ = stream.read(&mut hello);
        let _ = stream.write_all(b"pgbr: no TLS here\n");
    }

    /// See whether the other side's certificate names one of these places.
    pub fn names(&self, places: &[ServerName<'_>]) -> Result<(), rustls::Error> {
        let Incoming::Tls(connection, _) = self else { return Ok(()) };
        let shown = connection.peer_certificates();
        let leaf: &CertificateDer<'_> = shown
            .and_then(|chain| chain.first())
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        crate::credentials::names(leaf, places)
    }

    pub fn binding(&self) -> Vec<u8> {
        let Incoming::Tls(connection, _) = self else { return Vec::new() };
        exported(|out| connection.export_keying_material(out, BINDING_LABEL, None))
    }

    /// The connection, to be read and written by a thread of its own.
    pub fn open(self) -> Channel {
        match self {
            Incoming::Plain(stream) => Channel::Plain(stream),
            Incoming::Tls(connection, stream) => {
                Channel::Taken(Box::new(StreamOwned::new(*connection, stream)))
            }
        }
    }
}

fn flush(connection: &mut ServerConnection, stream: &mut TcpStream) -> io::Result<()> {
    while connection.wants_write() {
        connection.write_tls(stream)?;
    }
    Ok(())
}

/// The names under which a certificate may stand for `HOST:PORT`: the host as it is
/// written, and the address that it led to.
pub fn places(address: &str, target: Option<SocketAddr>) -> Vec<ServerName<'static>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let written = ServerName::try_from(host.to_owned()).ok();
    let found = target.map(|target| ServerName::from(target.ip()));
    written.into_iter().chain(found).collect()
}

/// Why TLS failed, if it was TLS.
pub fn tls_reason(error: &io::Error) -> Option<&'static str> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(reason(inner))
}

/// Credentials of a node, or none: plain transport.
pub type Tls = Option<Arc<Credentials>>;
