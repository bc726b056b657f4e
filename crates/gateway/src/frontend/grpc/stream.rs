//! `ModelStreamInfer`: each message goes through the pipeline in turn; what fails is said in its `error_message`,
//! and the stream goes on.

use std::panic::AssertUnwindSafe;

use bytes::{BufMut, Bytes};
use futures_util::FutureExt as _;
use http::{HeaderMap, Response};
use prost::encoding;
use proto::inference::ModelStreamInferResponse;

use super::{
    Source, frame,
    frame::Reader,
    infer::{Inferred, infer},
};
use crate::{
    frontend::{body::Body, call::Call, deadline::Patience, intake::Received},
    status::{Failure, Situation},
};

/// Number of `infer_response` in `ModelStreamInferResponse`.
const INFER_RESPONSE: u32 = 2;

/// Where the messages of one stream come from.
struct Messages {
    call: Call,
    headers: HeaderMap,
    reader: Reader,
    patience: Patience,
}

pub(super) fn answer(
    call: &mut Call,
    headers: HeaderMap,
    reader: Reader,
    patience: Patience,
) -> Response<Body> {
    let mut messages = call.message();
    messages.becomes_stream();
    call.becomes_stream();
    super::streamed(Messages { call: messages, headers, reader, patience })
}

impl Source for Messages {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let idle = self.call.gateway().config().timeouts.idle;
        let deadline = self.patience.deadline_of_stream()?;
        let terms = self.call.terms(deadline);
        let Some(received) = self.reader.next(&terms, idle).await? else { return Ok(None) };
        let mut one = self.call.message();
        let answered = AssertUnwindSafe(self.answer(&mut one, received)).catch_unwind().await;
        let result = answered.unwrap_or_else(|_| Err(one.panicked()));
        one.record(result.as_ref().err().map(|failure| failure.situation));
        framed(result).map(Some)
    }

    fn failed(&mut self, situation: Situation) {
        self.call.record(Some(situation));
    }
}

impl Messages {
    async fn answer(&self, one: &mut Call, received: Received) -> Result<Inferred, Failure> {
        let patience = self.patience.from(one.started());
        infer(one, &self.headers, received, patience).await
    }
}

fn framed(result: Result<Inferred, Failure>) -> Result<Bytes, Failure> {
    let whole = match result {
        Ok(Inferred::Encoded(response)) => embed(&response),
        Ok(Inferred::Message(response)) => frame::encode(&ModelStreamInferResponse {
            error_message: String::new(),
            infer_response: Some(response),
        }),
        Err(failure) => frame::encode(&ModelStreamInferResponse {
            error_message: failure.sentence().to_owned(),
            infer_response: None,
        }),
    };
    whole.ok_or_else(Failure::internal)
}

/// Puts an encoded response into an encoded stream response.
fn embed(response: &Bytes) -> Option<Bytes> {
    let field = encoding::key_len(INFER_RESPONSE)
        + encoding::encoded_len_varint(response.len() as u64)
        + response.len();
    let mut framed = frame::begin(field, field)?;
    encoding::encode_key(INFER_RESPONSE, encoding::WireType::LengthDelimited, &mut framed);
    encoding::encode_varint(response.len() as u64, &mut framed);
    framed.put_slice(response);
    Some(framed.freeze())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use proto::inference::ModelInferResponse;

    use super::*;

    #[test]
    fn an_embedded_response_reads_as_if_it_was_encoded_with_the_message() {
        let response = ModelInferResponse { model_name: "m".repeat(300), ..Default::default() };
        let framed = embed(&response.encode_to_vec().into()).unwrap();
        let read = ModelStreamInferResponse::decode(&framed[5..]).unwrap();
        assert_eq!(read.infer_response, Some(response));
        assert_eq!(read.error_message, "");
    }
}
