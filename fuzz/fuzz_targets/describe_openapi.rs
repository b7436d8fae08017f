//! Any bytes as an OpenAPI document in JSON or YAML: refused, or rewritten so that it reads as it should and nothing else has changed.
#![no_main]

use hawser_describe::{DescribeError, Description, Validator, callbacks, is_description, rewrite};
use http::{HeaderMap, Method};
use libfuzzer_sys::fuzz_target;

const NEW: &str = "http://mapped.example/a?b=c";

fuzz_target!(|data: &[u8]| {
    let _ = is_description(Some("application/json"), data);
    for hint in [Some("a.json"), Some("a.yaml")] {
        let Ok(before) = Description::parse(data, hint) else {
            continue;
        };
        assert_eq!(rewrite(data, hint, &mut |_, _| None).as_deref(), Ok(data));
        match rewrite(data, hint, &mut |_, _| Some(NEW.into())) {
            Ok(out) => {
                let (after, before) = (
                    Description::parse(&out, hint).expect("what is written can be read"),
                    &before,
                );
                let (after, before) = (after.summary(), before.summary());
                assert!(after.endpoints.iter().chain(&after.imports).all(|a| a == NEW));
                assert_eq!(
                    (after.operations, after.title, after.version),
                    (before.operations, before.title, before.version)
                );
            }
            Err(e) => assert_eq!(e, DescribeError::Unsure),
        }
        if let Description::OpenApi(api) = &before {
            let _ = callbacks(api);
        }
        if let Ok(validator) = Validator::new(&[before]) {
            for path in ["/", "/a?b=c", "/a/b%20/c"] {
                let _ = validator.request(&Method::POST, path, &HeaderMap::new(), b"{}");
            }
        }
    }
});
