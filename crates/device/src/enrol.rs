//! From a link to a device.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use hawser_identity::{Fingerprint, tls};
use hawser_proto::broker::{
    api::{Enrol, Enrolled, Profile},
    enrolment::{EnrolmentAnswer, EnrolmentRequest, Fragment},
    envelope::{encoded, whole},
    statement::{DeviceCertificate, Signed},
};
use hawser_seal::{DeviceKeys, PublicKey, check_certificate, dpop, enrolment::Transcript};
use http::{HeaderMap, HeaderName, Method};

use crate::{
    Cost, DeviceError, Home, Identity,
    clock::Clock,
    device::{header_value, json_body},
    http::{Call, Server, address},
};

const MAX_ANSWER: usize = 32 * 1024;

/// What a device enrols with.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// `https://NAME[:PORT]/enrol#v1...`
    pub link: String,
    /// For people; one line.
    pub name: String,
    /// What it can show.
    pub profile: Profile,
    /// What trying one passphrase is to cost.
    pub cost: Cost,
}

/// Enrols, and writes the device into its directory. `checked` is told the check number before the request goes out. Not cancel
/// safe: the link may be spent, and the device not written.
pub async fn enrol(
    home: &Home,
    enrolment: &Enrolment,
    passphrase: &str,
    checked: impl FnOnce(&str),
) -> Result<Identity, DeviceError> {
    let (origin, fragment) = parse(&enrolment.link)?;
    home.prepare()?;
    let keys = DeviceKeys::generate()?;
    // A passphrase that will not do is found out before the link is spent.
    crate::wrap::check(passphrase)?;
    let request = encoded(&EnrolmentRequest {
        enrolment: fragment.enrolment,
        signing_key: keys.public().as_bytes().to_vec(),
        sealing_key: *keys.sealing_public(),
        name: enrolment.name.clone(),
        profile: serde_json::to_string(&enrolment.profile).unwrap_or_default(),
    });
    let transcript = Transcript::of(&fragment, &request);
    checked(&transcript.check_number()?);
    let answer = ask(&origin, &fragment, &keys, &request, &transcript).await?;
    let identity = believe(&fragment, &keys, &answer, enrolment)?;
    home.create(&identity, &keys, passphrase, enrolment.cost)?;
    Ok(identity)
}

/// Where the link leads, and what it says.
fn parse(link: &str) -> Result<(String, Fragment), DeviceError> {
    let (url, fragment) = link.trim().split_once('#').ok_or(DeviceError::Link)?;
    let origin = url.strip_suffix("/enrol").ok_or(DeviceError::Link)?;
    address(origin).ok_or(DeviceError::Link)?;
    let fragment = Fragment::parse(fragment).ok_or(DeviceError::Link)?;
    Ok((origin.into(), fragment))
}

async fn ask(
    origin: &str,
    fragment: &Fragment,
    keys: &DeviceKeys,
    request: &[u8],
    transcript: &Transcript,
) -> Result<EnrolmentAnswer, DeviceError> {
    let tls = tls::device_control(fragment.domain.clone(), Fingerprint(fragment.root))?;
    let mut control = Server::new(origin, tls)?;
    let body = Enrol {
        request: B64.encode(request),
        mac: B64.encode(transcript.request_mac()?),
    };
    let clock = Clock::default();
    let url = format!("{}/v1/devices", control.origin());
    let mut last = None;
    // Once more by the server's clock, if ours is wrong.
    for _ in 0..2 {
        let proof = dpop::prove(keys.signing(), "POST", &url, None, clock.now())?;
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("dpop"), header_value(&proof)?);
        let call = Call {
            method: Method::POST,
            path: "/v1/devices",
            body: json_body(&body, &mut headers)?,
            headers,
        };
        let mut wrong = false;
        match control
            .call(call, MAX_ANSWER, |date| wrong = clock.learn(date))
            .await
        {
            Err(e @ DeviceError::Refused { status: 401, .. }) if wrong => last = Some(e),
            Err(e) => return Err(e),
            Ok(answer) => {
                let enrolled: Enrolled = control.json(&answer)?;
                let bytes = B64.decode(&enrolled.answer).unwrap_or_default();
                let mac = B64.decode(&enrolled.mac).unwrap_or_default();
                transcript
                    .check_answer(&bytes, &mac)
                    .map_err(|_| DeviceError::Enrolment("its MAC is not that of who made the link"))?;
                return whole(&bytes).map_err(|_| DeviceError::Enrolment("it is malformed"));
            }
        }
    }
    Err(last.unwrap_or(DeviceError::Enrolment("there is none")))
}

/// The answer must certify these keys, for this domain, and say the same in all places.
fn believe(
    fragment: &Fragment,
    keys: &DeviceKeys,
    answer: &EnrolmentAnswer,
    enrolment: &Enrolment,
) -> Result<Identity, DeviceError> {
    let sender = PublicKey::from_bytes(&answer.sender_key)?;
    let signed = Signed::<DeviceCertificate>::parse(&answer.certificate)
        .map_err(|_| DeviceError::Enrolment("its certificate is malformed"))?;
    // Its own time is the one that counts: this machine's clock may be wrong.
    let certificate = check_certificate(&signed, &sender, answer.at)?;
    let fits = certificate.domain == fragment.domain
        && certificate.user == answer.user
        && certificate.device == answer.device
        && certificate.signing_key == keys.public().as_bytes()
        && certificate.sealing_key == *keys.sealing_public();
    if !fits {
        return Err(DeviceError::Enrolment(
            "it certifies something else than this device",
        ));
    }
    let hub = answer.hub_pin.ok_or(DeviceError::Enrolment(
        "it names no key of the hub's, by which alone a device of this kind knows the mailbox",
    ))?;
    for origin in [&answer.control, &answer.mailbox] {
        address(origin).ok_or(DeviceError::Enrolment(
            "it names an address that is not https://NAME[:PORT]",
        ))?;
    }
    Ok(Identity {
        domain: certificate.domain,
        user: certificate.user,
        device: certificate.device,
        name: certificate.name,
        control: answer.control.clone(),
        mailbox: answer.mailbox.clone(),
        root: Fingerprint(fragment.root),
        hub: Fingerprint(hub),
        sender_key: B64.encode(&answer.sender_key),
        certificate: B64.encode(&answer.certificate),
        profile: enrolment.profile.clone(),
    })
}
