//! A certificate authority of one cluster, and the certificates that it signs.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{
    date_time_ymd, BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use time::{Duration, OffsetDateTime};

/// What stands before the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22,
    0x04, 0x20,
];
/// The authority of a seed is the same on every node and on every day.
const SEEDED_NAME: &str = "pgbastion cluster authority";
const DAY_S: i64 = 86_400;

/// A certificate with its key, both in PEM.
#[derive(Clone)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

/// Whom a certificate names, and for how long.
pub struct Subject {
    pub name: String,
    /// Addresses and host names under which the others reach it.
    pub places: Vec<String>,
    pub days: u32,
}

/// An authority with its key.
pub struct Authority {
    pub certificate: String,
    key: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The authority that follows from a seed: who knows the seed is the authority.
    pub fn of_seed(seed: &[u8; 32]) -> Result<Authority, String> {
        let mut der = PKCS8_PREFIX.to_vec();
        der.extend_from_slice(seed);
        let pkcs8 = PrivatePkcs8KeyDer::from(der);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ED25519)
            .map_err(|e| format!("the seed gives no key: {e}"))?;
        let (from, until) = (date_time_ymd(1970, 1, 1), date_time_ymd(9999, 12, 31));
        Authority::sign_itself(SEEDED_NAME, key, (from, until))
    }

    /// A new authority of its own key.
    pub fn generate(name: &str, days: u32) -> Result<Authority, String> {
        let key = fresh_key()?;
        Authority::sign_itself(name, key, validity(days)?)
    }

    fn sign_itself(
        name: &str,
        key: KeyPair,
        (not_before, not_after): (OffsetDateTime, OffsetDateTime),
    ) -> Result<Authority, String> {
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (not_before, not_after);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        // It signs nodes and no other authority.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(|e| e.to_string())?.pem();
        let pem = key.serialize_pem();
        Ok(Authority { certificate, key: pem, issuer: Issuer::new(params, key) })
    }

    /// Read an authority from its two files.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Authority, String> {
        let pair = KeyPair::from_pem(key).map_err(|e| format!("the key: {e}"))?;
        let issuer = Issuer::from_ca_cert_pem(certificate, pair)
            .map_err(|e| format!("the certificate: {e}"))?;
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        Ok(Authority { certificate, key, issuer })
    }

    /// Its own key in PEM, for the file of those who keep one.
    pub fn key_pem(&self) -> &str {
        &self.key
    }

    /// Make a key, and sign a certificate of it.
    pub fn issue(&self, subject: &Subject) -> Result<Issued, String> {
        let key = fresh_key()?;
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = validity(subject.days)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject.name.as_str());
        params.subject_alt_names =
            subject.places.iter().map(|place| alt_name(place)).collect::<Result<_, _>>()?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let signed = params.signed_by(&key, &self.issuer).map_err(|e| e.to_string())?;
        Ok(Issued { certificate: signed.pem(), key: key.serialize_pem() })
    }
}

/// A key of the kind that everybody reads: OpenSSL and browsers, which the API serves,
/// refuse Ed25519 keys as they are generated, and certificates of them.
fn fresh_key() -> Result<KeyPair, String> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| e.to_string())
}

/// From long ago, so that a node whose clock is behind accepts it, for so many days.
fn validity(days: u32) -> Result<(OffsetDateTime, OffsetDateTime), String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let until = OffsetDateTime::UNIX_EPOCH
        + Duration::seconds(now.as_secs() as i64)
        + Duration::seconds(i64::from(days) * DAY_S);
    if until.year() > 9999 {
        return Err(format!("{days} days are too many"));
    }
    Ok((date_time_ymd(1970, 1, 1), until))
}

fn alt_name(place: &str) -> Result<SanType, String> {
    if let Ok(address) = place.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let name =
        place.try_into().map_err(|_| format!("{place}: neither address nor name"))?;
    Ok(SanType::DnsName(name))
}
