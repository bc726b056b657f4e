//! Reading the body of a call within limits of size and time.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body;

use crate::error::{Error, Quoted};

/// Bytes of a body, and of a gRPC message.
pub(crate) const BODY_BYTES_MAX: usize = 64 << 20;
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads a whole body, within the limits of size and time.
pub(crate) async fn read<B>(headers: &HeaderMap, body: B) -> Result<Bytes, Error>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|value| *value != "identity") {
        return Err(Error::Encoding(Quoted::new(&String::from_utf8_lossy(encoding.as_bytes()))));
    }
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(Error::BodyTooLarge { limit: BODY_BYTES_MAX });
    }
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    match collected {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Error::BodyTooLarge { limit: BODY_BYTES_MAX })
        }
        Ok(Err(_)) => Err(Error::BodyBroken),
        Err(_) => Err(Error::BodySlow { seconds: BODY_TIMEOUT.as_secs() }),
    }
}
