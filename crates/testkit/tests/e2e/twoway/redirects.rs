//! Addresses in the headers of answers: where they are asked for, they lead through the tunnel.

use hawser_testkit::{
    curl::Curl,
    gate,
    origin::HttpOrigin,
    world::{Service, Spec},
};

const PORT: u16 = 8207;
const IMPORT: u16 = 9001;
const RULE: &str = "[[gateway.callbacks.rule]]\nservice = \"*\"\nheaders = [\"Location\", \"Link\"]";

#[test]
fn redirects_and_links_lead_through_the_tunnel() {
    if !gate::networks("redirects through the tunnel") {
        return;
    }
    let service = Service::http("web", PORT)
        .imported(IMPORT)
        .more("host = \"origin\"");
    let world = Spec::new([service]).gateway_tables(RULE).start().unwrap();
    let _origins = [0, 1].map(|n| HttpOrigin::start(&world.site(n).app, PORT).unwrap());
    for way in world.ways() {
        let inner = format!("http://{}/echo", way.server().at(PORT));
        for (url, proxy) in [
            (way.url("web", ""), Some(way.proxy())),
            (format!("http://{}", way.import(IMPORT)), None),
        ] {
            let url = url.trim_end_matches('/');
            let curl = |target: &str| {
                let curl = Curl::new(way.client(), format!("{url}{target}"));
                match proxy {
                    Some(proxy) => curl.proxy(proxy),
                    None => curl,
                }
            };
            let moved = curl(&format!("/moved?{inner}")).expect(307).unwrap();
            assert_eq!(moved.header("location"), Some(&*format!("{url}/echo")));
            let next = format!("<{url}/echo>; rel=\"next\"");
            assert_eq!(moved.header("link"), Some(&*next));
            let followed = curl(&format!("/moved?{inner}")).args(["-L"]).expect(200).unwrap();
            assert_eq!(followed.json().unwrap()["path"], "/echo");
            for other in ["http://elsewhere.example/x", "/relative", "urn:no-address"] {
                let moved = curl(&format!("/moved?{other}")).expect(307).unwrap();
                assert_eq!(moved.header("location"), Some(other));
            }
        }
    }
}
