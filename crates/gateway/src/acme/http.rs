//! The library's requests to a certificate authority, made by the gateway's own client.

use std::pin::Pin;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use crate::https::Https;

impl HttpClient for Https {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let https = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            // It is whole: this cannot fail.
            let body = body.collect().await.unwrap_or_default().to_bytes();
            let url = head.uri.to_string();
            let reply = https.send(head.method, &url, head.headers, body).await;
            let reply = reply.map_err(|e| Error::Other(Box::new(e)))?;
            let answer = http::Response::from_parts(reply.head, Full::new(reply.body));
            Ok(BytesResponse::from(answer))
        })
    }
}
