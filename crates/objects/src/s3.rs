//! Objects in an S3 bucket, or whatever speaks its protocol.

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;

use crate::{Key, Listed, ObjectError, ObjectStore, Reading, Writing};

/// Size of a part of a large object (the service's least is 5 MiB).
const PART: usize = 8 << 20;
/// Objects of one listing page.
const PAGE: i32 = 1_000;

/// Where the bucket is.
#[derive(Clone, Debug)]
pub struct S3Settings {
    /// Bucket name.
    pub bucket: String,
    /// Region.
    pub region: String,
    /// Another service's address; empty = the region's own.
    pub endpoint: String,
    /// Key pair (id, secret); `None` = the environment's usual chain.
    pub key_pair: Option<(String, String)>,
}

/// A bucket.
#[derive(Clone)]
pub struct S3 {
    client: Client,
    bucket: String,
}

fn failed<E: std::error::Error + 'static, R: std::fmt::Debug + 'static>(
    error: &SdkError<E, R>,
) -> ObjectError {
    // The service's own words may quote the request; the class is enough.
    let class = match error {
        SdkError::TimeoutError(_) => "time-out",
        SdkError::DispatchFailure(_) => "cannot connect",
        SdkError::ServiceError(_) => "the service refused the request",
        _ => "the request failed",
    };
    tracing::warn!(error = %aws_sdk_s3::error::DisplayErrorContext(error), "object storage");
    ObjectError::Unavailable(class.to_owned())
}

impl S3 {
    /// Connects (lazily).
    pub async fn open(settings: &S3Settings) -> Self {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(aws_smithy_http_client::tls::Provider::Rustls(
                aws_smithy_http_client::tls::rustls_provider::CryptoMode::Ring,
            ))
            .build_https();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(settings.region.clone()))
            .http_client(http);
        if let Some((id, secret)) = &settings.key_pair {
            let pair = Credentials::new(id, secret, None, None, "settings");
            loader = loader.credentials_provider(pair);
        }
        if !settings.endpoint.is_empty() {
            loader = loader.endpoint_url(&settings.endpoint);
        }
        let shared = loader.load().await;
        let config = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(!settings.endpoint.is_empty())
            .build();
        Self {
            client: Client::from_conf(config),
            bucket: settings.bucket.clone(),
        }
    }

    /// Makes the bucket; fine when it is there.
    ///
    /// # Errors
    /// When the service does not answer.
    pub async fn ensure_bucket(&self) -> Result<(), ObjectError> {
        let exists = self.client.head_bucket().bucket(&self.bucket).send().await;
        if exists.is_ok() {
            return Ok(());
        }
        let made = self.client.create_bucket().bucket(&self.bucket);
        made.send().await.map(|_| ()).map_err(|e| failed(&e))
    }
}

struct Multipart {
    client: Client,
    bucket: String,
    key: String,
    upload: String,
    parts: Vec<CompletedPart>,
    buffer: BytesMut,
}

impl Multipart {
    async fn send_part(&mut self, bytes: Bytes) -> Result<(), ObjectError> {
        let number = i32::try_from(self.parts.len() + 1)
            .map_err(|_| ObjectError::Full("too many parts".to_owned()))?;
        let part = self
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(&self.key)
            .upload_id(&self.upload)
            .part_number(number)
            .body(ByteStream::from(bytes))
            .send()
            .await
            .map_err(|e| failed(&e))?;
        let mut done = CompletedPart::builder().part_number(number);
        if let Some(tag) = part.e_tag() {
            done = done.e_tag(tag);
        }
        self.parts.push(done.build());
        Ok(())
    }
}

#[async_trait]
impl Writing for Multipart {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ObjectError> {
        self.buffer.extend_from_slice(&bytes);
        while self.buffer.len() >= PART {
            let part = self.buffer.split_to(PART).freeze();
            self.send_part(part).await?;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), ObjectError> {
        if !self.buffer.is_empty() || self.parts.is_empty() {
            let rest = self.buffer.split().freeze();
            self.send_part(rest).await?;
        }
        let parts = CompletedMultipartUpload::builder()
            .set_parts(Some(std::mem::take(&mut self.parts)))
            .build();
        self.client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(&self.key)
            .upload_id(&self.upload)
            .multipart_upload(parts)
            .send()
            .await
            .map(|_| ())
            .map_err(|e| failed(&e))
    }
}

#[async_trait]
impl ObjectStore for S3 {
    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), ObjectError> {
        let request = self.client.put_object().bucket(&self.bucket);
        request
            .key(key.as_str())
            .body(ByteStream::from(bytes))
            .send()
            .await
            .map(|_| ())
            .map_err(|e| failed(&e))
    }

    async fn write(&self, key: &Key) -> Result<Box<dyn Writing>, ObjectError> {
        let request = self.client.create_multipart_upload().bucket(&self.bucket);
        let upload = request
            .key(key.as_str())
            .send()
            .await
            .map_err(|e| failed(&e))?;
        Ok(Box::new(Multipart {
            client: self.client.clone(),
            bucket: self.bucket.clone(),
            key: key.as_str().to_owned(),
            upload: upload.upload_id().unwrap_or_default().to_owned(),
            parts: Vec::new(),
            buffer: BytesMut::new(),
        }))
    }

    async fn read(&self, key: &Key, offset: u64) -> Result<Option<Reading>, ObjectError> {
        let head = self.client.head_object().bucket(&self.bucket);
        let size = match head.key(key.as_str()).send().await {
            Ok(head) => u64::try_from(head.content_length().unwrap_or(0)).unwrap_or(0),
            Err(e) if e.as_service_error().is_some_and(|s| s.is_not_found()) => return Ok(None),
            Err(e) => return Err(failed(&e)),
        };
        if offset >= size {
            let bytes = futures::stream::empty().boxed();
            return Ok(Some(Reading { size, bytes }));
        }
        let request = self.client.get_object().bucket(&self.bucket);
        let object = request
            .key(key.as_str())
            .range(format!("bytes={offset}-"))
            .send()
            .await
            .map_err(|e| failed(&e))?;
        let bytes = futures::stream::try_unfold(object.body, |mut body| async move {
            match body.next().await {
                Some(Ok(chunk)) => Ok(Some((chunk, body))),
                Some(Err(e)) => Err(ObjectError::Unavailable(e.to_string())),
                None => Ok(None),
            }
        })
        .boxed();
        Ok(Some(Reading { size, bytes }))
    }

    async fn remove(&self, key: &Key) -> Result<(), ObjectError> {
        let request = self.client.delete_object().bucket(&self.bucket);
        let removed = request.key(key.as_str()).send().await;
        removed.map(|_| ()).map_err(|e| failed(&e))
    }

    async fn list(&self, folder: &Key) -> Result<Vec<Listed>, ObjectError> {
        let mut pages = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(format!("{folder}/"))
            .into_paginator()
            .page_size(PAGE)
            .send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| failed(&e))?;
            for object in page.contents() {
                found.push(Listed {
                    key: object.key().unwrap_or_default().to_owned(),
                    size: u64::try_from(object.size().unwrap_or(0)).unwrap_or(0),
                });
            }
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }
}
