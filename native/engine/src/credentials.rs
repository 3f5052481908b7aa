//! What this node shows on its port and whom it accepts there, to be replaced while it
//! runs: certificate, key, and the authority that every other node's has to be of.

use std::net::IpAddr;
use std::sync::{Arc, RwLock};

use rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{ring, verify_tls13_signature, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, Error, PeerIncompatible,
    RootCertStore, ServerConfig, SignatureScheme,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub subject: String,
    /// Addresses and host names.
    pub places: Vec<String>,
    /// Seconds since 1970.
    pub not_before_s: i64,
    pub not_after_s: i64,
}

/// Read what the first certificate of a PEM file says.
pub fn facts(pem: &[u8]) -> Result<Facts, String> {
    let der = CertificateDer::from_pem_slice(pem)
        .map_err(|e| format!("holds no certificate in PEM: {e}"))?;
    let (_, read) = X509Certificate::from_der(&der)
        .map_err(|_| "the certificate cannot be read".to_owned())?;
    let names = read.subject_alternative_name().ok().flatten();
    Ok(Facts {
        subject: read.subject().to_string(),
        places: names.map_or_else(Vec::new, |names| {
            names.value.general_names.iter().filter_map(place).collect()
        }),
        not_before_s: read.validity().not_before.timestamp(),
        not_after_s: read.validity().not_after.timestamp(),
    })
}

fn place(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// What connections are opened with.
struct Current {
    generation: u64,
    server: Arc<ServerConfig>,
    client: ClientConfig,
    chain: Arc<ChainVerifier>,
    node: Facts,
    authority: Facts,
}

/// This node's certificate, its key and its authority, the newest that it was given.
pub struct Credentials {
    current: RwLock<Arc<Current>>,
}

impl Credentials {
    /// Take them, once they are sure to be of use: the key is the certificate's, and the
    /// certificate is the authority's, for both sides of a connection, today.
    pub fn new(chain: &[u8], key: &[u8], authority: &[u8]) -> Result<Credentials, String> {
        let current = load(chain, key, authority, 1)?;
        Ok(Credentials { current: RwLock::new(Arc::new(current)) })
    }

    /// Use others for connections from now on; if they are of no use nothing changes.
    pub fn replace(
        &self,
        chain: &[u8],
        key: &[u8],
        authority: &[u8],
    ) -> Result<(), String> {
        let mut current = self.current.write().expect("no holder panics");
        *current = Arc::new(load(chain, key, authority, current.generation + 1)?);
        Ok(())
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().expect("no holder panics"))
    }

    /// Grows with each replacement.
    pub fn generation(&self) -> u64 {
        self.current().generation
    }

    /// What this node's certificate and the authority's say.
    pub fn facts(&self) -> (Facts, Facts) {
        let current = self.current();
        (current.node.clone(), current.authority.clone())
    }

    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current().server)
    }

    /// What a call is made with; the other side's certificate has to name one of
    /// `places`.
    pub fn client(&self, places: Vec<ServerName<'static>>) -> Arc<ClientConfig> {
        let current = self.current();
        let mut config = current.client.clone();
        let verifier = PlaceVerifier { chain: Arc::clone(&current.chain), places };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        Arc::new(config)
    }
}

fn load(
    chain: &[u8],
    key: &[u8],
    authority: &[u8],
    generation: u64,
) -> Result<Current, String> {
    let (node, of_authority) = (facts(chain)?, facts(authority)?);
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(authority) {
        let root = root.map_err(|e| format!("the authority: {e}"))?;
        roots.add(root).map_err(|e| format!("the authority: {e}"))?;
    }
    let roots = Arc::new(roots);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|e| format!("the certificate: {e}"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| format!("the key: {e}"))?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider.clone())
            .build()
            .map_err(|e| format!("the authority: {e}"))?;
    let by_chain = Arc::new(ChainVerifier { roots, provider: Arc::clone(&provider) });
    check_own(&chain, &by_chain, verifier.as_ref())
        .map_err(|e| format!("the certificate: {}", reason(&e)))?;
    let with_key = |e: Error| format!("the key: {e}");
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| e.to_string())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(with_key)?;
    // A connection lives for long: nothing is gained by resuming one, and a caller that
    // only writes would find tickets to read.
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PlaceVerifier {
            chain: Arc::clone(&by_chain),
            places: Vec::new(),
        }))
        .with_client_auth_cert(chain, key)
        .map_err(with_key)?;
    client.resumption = Resumption::disabled();
    Ok(Current {
        generation,
        server: Arc::new(server),
        client,
        chain: by_chain,
        node,
        authority: of_authority,
    })
}

/// Hold our own certificate against what the others ask of it.
fn check_own(
    chain: &[CertificateDer<'static>],
    as_server: &ChainVerifier,
    as_client: &dyn ClientCertVerifier,
) -> Result<(), Error> {
    let (leaf, rest) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
    as_server.verify(leaf, rest, UnixTime::now())?;
    as_client.verify_client_cert(leaf, rest, UnixTime::now()).map(|_| ())
}

/// Accepts whoever the authority has signed.
#[derive(Debug)]
struct ChainVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ChainVerifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            &self.roots,
            rest,
            now,
            self.provider.signature_verification_algorithms.all,
        )
    }
}

/// Accepts whoever the authority has signed for one of the places that were called.
#[derive(Debug)]
struct PlaceVerifier {
    chain: Arc<ChainVerifier>,
    places: Vec<ServerName<'static>>,
}

impl ServerCertVerifier for PlaceVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.chain.verify(leaf, rest, now)?;
        names(leaf, &self.places)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.chain.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Tell whether a certificate names one of these places.
pub fn names(leaf: &CertificateDer<'_>, places: &[ServerName<'_>]) -> Result<(), Error> {
    let parsed = ParsedCertificate::try_from(leaf)?;
    let mut outcome = Err(CertificateError::NotValidForName.into());
    for place in places {
        outcome = verify_server_name(&parsed, place);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Why a TLS connection did not come about, in one of a few words: they are logged once
/// an address.
pub fn reason(error: &Error) -> &'static str {
    use AlertDescription as Alert;
    use CertificateError as Cert;
    match error {
        Error::InvalidCertificate(Cert::Expired | Cert::ExpiredContext { .. }) => {
            "its certificate has expired"
        }
        Error::InvalidCertificate(Cert::NotValidYet | Cert::NotValidYetContext { .. }) => {
            "its certificate is not valid yet"
        }
        Error::InvalidCertificate(Cert::UnknownIssuer | Cert::BadSignature) => {
            "its certificate is of another authority"
        }
        Error::InvalidCertificate(
            Cert::NotValidForName | Cert::NotValidForNameContext { .. },
        ) => "its certificate is for another address",
        Error::InvalidCertificate(
            Cert::InvalidPurpose | Cert::InvalidPurposeContext { .. },
        ) => "its certificate is for another use",
        Error::InvalidCertificate(_) => "its certificate cannot be used",
        Error::NoCertificatesPresented => "it shows no certificate",
        Error::AlertReceived(
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::UnsupportedCertificate
            | Alert::DecryptError
            | Alert::AccessDenied,
        ) => "it refuses this node's certificate",
        Error::InvalidMessage(_) => "it does not speak TLS",
        Error::PeerIncompatible(_) => "it does not speak TLS 1.3",
        _ => "TLS failed",
    }
}
