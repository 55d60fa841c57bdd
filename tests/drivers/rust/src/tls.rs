//! TLS on rustls, with the client's own certificate where there is one, and bound to the server's.

use std::env;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

use crate::session::Failure;

/// How TLS is done.
#[derive(Clone)]
pub struct Tls(Arc<ClientConfig>);

fn file(name: &'static str) -> Result<PathBuf, Failure> {
    env::var_os(name).map(PathBuf::from).ok_or(Failure::Environment(name))
}

impl Tls {
    /// In these versions, and trusting the authority that the environment names, or none.
    pub fn new(trusting: bool, versions: &[&'static SupportedProtocolVersion]) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        if trusting {
            for certificate in CertificateDer::pem_file_iter(file("PGSSLROOTCERT")?)? {
                roots.add(certificate?)?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions)?;
        let config = config.with_root_certificates(roots);
        let mut config = match env::var_os("PGSSLCERT") {
            Some(own) => {
                let own =
                    CertificateDer::pem_file_iter(PathBuf::from(own))?.collect::<Result<Vec<_>, _>>()?;
                config.with_client_auth_cert(own, PrivateKeyDer::from_pem_file(file("PGSSLKEY")?)?)?
            }
            None => config.with_no_client_auth(),
        };
        // Asked for by PostgreSQL where TLS comes at once.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

impl<S> MakeTlsConnect<S> for Tls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Stream<S>;
    type TlsConnect = Connect;
    type Error = InvalidDnsNameError;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Connect, InvalidDnsNameError> {
        let name = ServerName::try_from(domain.to_owned())?;
        Ok(Connect { connector: TlsConnector::from(Arc::clone(&self.0)), name })
    }
}

/// A handshake to come.
pub struct Connect {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl<S> TlsConnect<S> for Connect
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Stream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { self.connector.connect(self.name, stream).await.map(Stream) })
    }
}

/// An encrypted connection.
pub struct Stream<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Stream<S> {
    /// The pool's certificates are signed with SHA-256, so that is their binding's sum too (RFC 5929, section 4.1).
    fn channel_binding(&self) -> ChannelBinding {
        let shown = self.0.get_ref().1.peer_certificates().and_then(|shown| shown.first());
        shown.map_or_else(ChannelBinding::none, |own| {
            ChannelBinding::tls_server_end_point(Sha256::digest(own).to_vec())
        })
    }
}
