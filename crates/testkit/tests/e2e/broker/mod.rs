//! Events of an application behind a firewall reach the right person's right devices outside, and nobody else can open them.

mod apart;
mod blind;
mod browser;
mod measure;
mod path;
mod refused;
mod thief;

use hawser_testkit::{gate, office::Office};

/// An office, where this machine can have one.
fn office(what: &str) -> Option<Office> {
    let possible = gate::networks(what) && gate::programs(what, &["curl"]);
    possible.then(|| Office::start().unwrap())
}

/// The delivery's id in an answer to a publisher.
fn id(answer: &hawser_testkit::curl::Answer) -> String {
    assert_eq!(answer.status, 202, "{} {}", answer.head, answer.text());
    let accepted = answer.json().unwrap();
    let id = accepted["delivery"].as_str().unwrap().to_owned();
    assert_eq!(
        answer.header("location").unwrap(),
        // The testkit has heads in lower case.
        format!("/v1/deliveries/{id}").to_lowercase(),
        "{}",
        answer.head
    );
    id
}
