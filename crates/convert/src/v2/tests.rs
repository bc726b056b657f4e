use std::time::Duration;

use bytes::Bytes;
use pipeline::{
    request::{Class, Inference, Outcome},
    tensor::{DataType, Metadata, Parameter, Tensor, TensorSpec},
};
use proptest::prelude::*;

use super::*;
use crate::{
    Decoded, Encoded, Limits, Mirror, Reason,
    arbitrary::{self, Values},
};

fn decode(body: &Bytes, header_length: Option<usize>) -> Result<Decoded, Error> {
    parse(body, header_length)?.decode(&Limits::default())
}

fn decode_json(json: &str) -> Result<Decoded, Error> {
    decode(&Bytes::copy_from_slice(json.as_bytes()), None)
}

#[track_caller]
fn assert_refused(result: Result<Decoded, Error>, reason: Reason, sentence: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.to_string(), sentence);
    assert_eq!(error.reason(), reason, "{sentence}");
    assert!(sentence.chars().count() <= 300);
}

/// A request with the input `x`, of which only some members are of interest.
fn input(members: &str) -> String {
    format!(r#"{{"inputs":[{{"name":"x",{members}}}]}}"#)
}

const GOOD: &str = r#"{"name":"x","shape":[1],"datatype":"INT8","data":[1]}"#;

#[test]
fn what_is_not_json_is_bad_json() {
    let deep = format!(r#"{{"x":{}"#, "[".repeat(200));
    let deep_data =
        input(&format!(r#""shape":[1],"datatype":"INT8","data":{}1{}"#, "[".repeat(99), "]".repeat(99)));
    let cases = [
        (r#"{"inputs":"#, "body is not valid JSON: unexpected end at line 1 column 11"),
        ("{\n\"id\" 1}", "body is not valid JSON: expected ':' at line 2 column 6"),
        ("\u{feff}{}", "body is not valid JSON: a byte order mark at line 1 column 1"),
        (
            &format!(r#"{{"inputs":[{GOOD}]}}{{}}"#),
            "body is not valid JSON: trailing characters at line 1 column 67",
        ),
        (
            &input(r#""shape":[1],"datatype":"INT8","data":[1,}"#),
            "body is not valid JSON: unexpected end at line 1 column 68",
        ),
        (
            &input(r#""shape":[1],"datatype":"INT8","data":[1,}]"#),
            "body is not valid JSON: expected a value at line 1 column 64",
        ),
        (
            &input(r#""shape":[1],"datatype":"FP32","data":[NaN]"#),
            "body is not valid JSON: NaN and Infinity are not JSON (send the tensor in binary) at line 1 column 62",
        ),
        (&deep, "JSON nesting exceeds 100 levels"),
        (&deep_data, "JSON nesting exceeds 100 levels"),
        (&format!(r#"{{"inputs":[{GOOD}],"inputs":[{GOOD}]}}"#), r#"duplicate field "inputs""#),
        (&input(r#""shape":[1],"shape":[1]"#), r#"duplicate field "shape""#),
        (&format!(r#"{{"inputs":[{GOOD}],"parameters":{{"a":1,"a":2}}}}"#), r#"duplicate field "a""#),
    ];
    for (json, sentence) in cases {
        assert_refused(decode_json(json), Reason::BadJson, sentence);
    }
    let latin = Bytes::from_static(b"{\"id\":\"\xe9\"}");
    assert_refused(
        decode(&latin, None),
        Reason::BadJson,
        "body is not valid JSON: invalid UTF-8 at line 1 column 8",
    );
}

#[test]
fn what_is_not_a_request_is_a_bad_request() {
    let with = |members: &str| format!(r#"{{"inputs":[{GOOD}],{members}}}"#);
    let many: Vec<String> = (0..65).map(|i| GOOD.replace("\"x\"", &format!("\"x{i}\""))).collect();
    let many = format!(r#"{{"inputs":[{}]}}"#, many.join(","));
    let long_id = with(&format!(r#""id":"{}""#, "i".repeat(257)));
    let cases = [
        ("[]", "body must be a JSON object".to_owned()),
        ("{}", r#"missing field "inputs""#.to_owned()),
        (r#"{"inputs":[]}"#, r#""inputs" is empty"#.to_owned()),
        (r#"{"inputs":{}}"#, r#""inputs" must be a list of objects"#.to_owned()),
        (r#"{"inputs":[1]}"#, r#""inputs" must be a list of objects"#.to_owned()),
        (&many, "more than 64 inputs".to_owned()),
        (&format!(r#"{{"inputs":[{GOOD},{GOOD}]}}"#), r#"input "x" is given twice"#.to_owned()),
        (
            &with(r#""outputs":[{"name":"OUT"},{"name":"OUT"}]"#),
            r#"output "OUT" already requested"#.to_owned(),
        ),
        (&with(r#""outputs":["OUT"]"#), r#""outputs" must be a list of objects"#.to_owned()),
        (&with(r#""id":1"#), r#""id" must be a string"#.to_owned()),
        (&long_id, r#""id" is longer than 256 characters"#.to_owned()),
        (&with(r#""id":"a\u0000""#), r#""id" has a control character"#.to_owned()),
        (&with(r#""parameters":[]"#), r#""parameters" must be an object"#.to_owned()),
        (
            &with(r#""parameters":{"a":[]}"#),
            r#"parameter "a" must be a string, a number or a boolean"#.to_owned(),
        ),
        (
            &with(r#""parameters":{"priority":"high"}"#),
            r#"parameter "priority" must be a whole number from 0"#.to_owned(),
        ),
        (
            &with(r#""parameters":{"timeout":-1}"#),
            r#"parameter "timeout" must be a whole number of microseconds"#.to_owned(),
        ),
        (
            &with(r#""parameters":{"timeout":true}"#),
            r#"parameter "timeout" must be a whole number of microseconds"#.to_owned(),
        ),
        (
            &with(r#""parameters":{"sequence_id":1.5}"#),
            r#"parameter "sequence_id" must be a whole number or a string"#.to_owned(),
        ),
        (
            &with(r#""parameters":{"sequence_start":1}"#),
            r#"parameter "sequence_start" must be true or false"#.to_owned(),
        ),
        (
            &with(r#""parameters":{"sequence_end":"x"}"#),
            r#"parameter "sequence_end" must be true or false"#.to_owned(),
        ),
        (
            &with(r#""parameters":{"binary_data_output":1}"#),
            r#"parameter "binary_data_output" must be true or false"#.to_owned(),
        ),
    ];
    for (json, sentence) in cases {
        assert_refused(decode_json(json), Reason::BadRequest, &sentence);
    }
}

#[test]
fn what_is_not_a_tensor_is_a_bad_tensor() {
    let x = |members: &str, problem: &str| (input(members), format!("input \"x\": {problem}"));
    let cases = [
        (r#"{"inputs":[{"shape":[1]}]}"#.to_owned(), r#"inputs[0]: missing field "name""#.to_owned()),
        (r#"{"inputs":[{"name":1}]}"#.to_owned(), r#"inputs[0]: "name" must be a string"#.to_owned()),
        x(r#""datatype":"FP32","data":[1]"#, r#"missing field "shape""#),
        x(r#""shape":[1],"data":[1]"#, r#"missing field "datatype""#),
        x(r#""shape":[1],"datatype":"FP32""#, r#"missing field "data""#),
        x(
            r#""shape":[1],"datatype":"FLOAT","data":[1]"#,
            "datatype \"FLOAT\" is not one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, \
             FP16, FP32, FP64, BF16, BYTES",
        ),
        x(r#""shape":[1,4],"datatype":"FP32","data":[1,2,3]"#, "shape [1,4] needs 4 values, got 3"),
        x(r#""shape":[1,2],"datatype":"FP32","data":[[1,2,3]]"#, "shape [1,2] needs 2 values, got 3"),
        x(r#""shape":[3],"datatype":"FP32","data":[[1,2,[3]]]"#, "data is ragged at [0][2]"),
        x(r#""shape":[1],"datatype":"INT8","data":[300]"#, "value 300 at data[0] does not fit INT8"),
        x(
            r#""shape":[2147483648,2147483648,2147483648],"datatype":"FP32","data":[1]"#,
            "shape product overflows",
        ),
        x(
            r#""shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"datatype":"INT8","data":[1]"#,
            "shape has more than 16 dimensions",
        ),
        x(
            r#""shape":[2147483649],"datatype":"FP32","data":[1]"#,
            "shape[0] is 2147483649; a dimension is 0 to 2147483648",
        ),
        x(
            r#""shape":[1],"datatype":"FP32","data":[1],"parameters":{"binary_data_size":4}"#,
            r#"has both "data" and "binary_data_size""#,
        ),
    ];
    for (json, sentence) in cases {
        assert_refused(decode_json(&json), Reason::BadTensor, &sentence);
    }
    for shape in ["[-1]", "[1.5]", "[99999999999999999999]"] {
        let value = shape.trim_matches(['[', ']']);
        let json = input(&format!(r#""shape":{shape},"datatype":"FP32","data":[1]"#));
        let sentence = format!("inputs[0]: shape[0] is {value}; a dimension is 0 to 2147483648");
        assert_refused(decode_json(&json), Reason::BadTensor, &sentence);
    }
}

#[test]
fn shared_memory_is_unsupported_wherever_it_is_asked_for() {
    let sentence = "shared memory is not available through the gateway";
    let region = r#""parameters":{"shared_memory_region":"r","shared_memory_byte_size":4}"#;
    let in_input = input(&format!(r#""shape":[1],"datatype":"FP32",{region}"#));
    let in_output = format!(r#"{{"inputs":[{GOOD}],"outputs":[{{"name":"o",{region}}}]}}"#);
    assert_refused(decode_json(&in_input), Reason::Unsupported, sentence);
    assert_refused(decode_json(&in_output), Reason::Unsupported, sentence);
}

/// A binary request for FP32 `x` of shape `[4]`, with `declared` as its size and `present` bytes of it.
fn binary(declared: &str, present: usize) -> (Bytes, usize) {
    let json =
        input(&format!(r#""shape":[4],"datatype":"FP32","parameters":{{"binary_data_size":{declared}}}"#));
    let body = [json.as_bytes(), &vec![0; present]].concat();
    (body.into(), json.len())
}

#[test]
fn binary_data_must_be_what_was_declared() {
    let refused = |(body, header): (Bytes, usize), reason, sentence: &str| {
        assert_refused(decode(&body, Some(header)), reason, sentence);
    };
    assert!(decode(&binary("16", 16).0, Some(binary("16", 16).1)).is_ok());
    refused(binary("16", 12), Reason::BadTensor, "binary_data_size: 16 bytes declared, 12 present");
    refused(binary("16", 20), Reason::BadTensor, "binary_data_size: 16 bytes declared, 20 present");
    refused(binary("12", 12), Reason::BadTensor, "input \"x\": 12 bytes of data, but FP32 [4] takes 16");
    refused(
        binary("-1", 16),
        Reason::BadRequest,
        "parameter \"binary_data_size\" must be a whole number of bytes",
    );
    refused(
        binary("\"16\"", 16),
        Reason::BadRequest,
        "parameter \"binary_data_size\" must be a whole number of bytes",
    );
    let unclaimed = format!(r#"{{"inputs":[{GOOD}]}}"#);
    let body = Bytes::from(format!("{unclaimed}1234"));
    refused(
        (body, unclaimed.len()),
        Reason::BadTensor,
        "4 bytes follow the JSON, but no input has binary_data_size",
    );
    let (body, header) = binary("16", 16);
    refused(
        (body.clone(), header - 3),
        Reason::BadJson,
        "body is not valid JSON: it ends at column 90 of line 1; Inference-Header-Content-Length says 89",
    );
    refused(
        (body, 1000),
        Reason::BadHeaderLength,
        "Inference-Header-Content-Length is 1000, but the body has 108 bytes",
    );
}

#[test]
fn strings_in_binary_are_walked_to_their_end() {
    let of = |data: &[u8]| {
        let members = r#""shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":"#;
        let json = input(&format!("{members}{}}}", data.len()));
        decode(&[json.as_bytes(), data].concat().into(), Some(json.len()))
    };
    assert!(of(b"\x01\0\0\0a\0\0\0\0").is_ok());
    let cases: [(&[u8], &str); 3] = [
        (b"\x01\0\0\0a\x09\0\0\0a", "BYTES element 1 is cut off: 9 bytes declared, 1 left"),
        (b"\x01\0\0\0a", "shape [2] needs 2 values, got 1"),
        (b"\0\0\0\0\0\0\0\0zzz", "3 bytes are left after BYTES element 1"),
    ];
    for (data, problem) in cases {
        assert_refused(of(data), Reason::BadTensor, &format!("input \"x\": {problem}"));
    }
}

#[test]
fn a_header_length_is_digits_only() {
    assert_eq!(header_length("0"), Ok(0));
    assert_eq!(header_length("602112"), Ok(602_112));
    for value in ["", "+1", "-1", " 1", "1 ", "0x10", "1.0", "99999999999999999999", "१"] {
        let error = header_length(value).unwrap_err();
        assert_eq!(error.reason(), Reason::BadHeaderLength);
        assert_eq!(
            error.to_string(),
            format!("Inference-Header-Content-Length must be a whole number, got \"{value}\"")
        );
    }
}

#[test]
fn a_small_text_may_not_become_a_large_tensor() {
    let json = input(r#""shape":[1000000],"datatype":"FP64","data":[1,1]"#);
    let body = Bytes::from(json);
    assert!(parse(&body, None).unwrap().decoded_bytes() < 64, "what is not there is not charged");
    let json = input(&format!(r#""shape":[100],"datatype":"FP64","data":[{}0]"#, "0,".repeat(99)));
    let body = Bytes::from(json);
    let parsed = parse(&body, None).unwrap();
    assert_eq!(parsed.decoded_bytes(), 800);
    let limit = Limits { decoded_bytes: 799 };
    assert_refused(
        parsed.decode(&limit),
        Reason::BodyTooLarge,
        "decoded tensors take 800 bytes, the limit is 799",
    );
}

#[test]
fn priority_timeout_and_the_form_of_the_answer_are_taken_out() {
    let json = format!(
        r#"{{"id":"7","inputs":[{GOOD}],"extra":{{"a":[]}},
        "outputs":[{{"name":"a","parameters":{{"binary_data":false,"classification":3}}}},{{"name":"b"}}],
        "parameters":{{"priority":1,"timeout":2500,"binary_data_output":true,"sequence_id":9,"note":null}}}}"#
    );
    let Decoded { inference, class, timeout, mirror } = decode_json(&json).unwrap();
    assert_eq!((class, timeout), (Some(Class::High), Some(Duration::from_micros(2500))));
    assert_eq!(inference.id, "7");
    assert_eq!(inference.parameters, [("sequence_id".to_owned(), Parameter::Int(9))].into());
    assert_eq!(inference.outputs[0].parameters, [("classification".to_owned(), Parameter::Int(3))].into());
    let outcome = Outcome { outputs: ["a", "b"].map(int8).to_vec(), ..Outcome::default() };
    let Encoded { body, header_length } = encode_response("m", &outcome, "7", &mirror).unwrap();
    let header = header_length.unwrap();
    assert_eq!(
        str::from_utf8(&body[..header]).unwrap(),
        concat!(
            r#"{"model_name":"m","id":"7","outputs":[{"name":"a","datatype":"INT8","shape":[1],"data":[5]},"#,
            r#"{"name":"b","datatype":"INT8","shape":[1],"parameters":{"binary_data_size":1}}]}"#
        )
    );
    assert_eq!(&body[header..], [5]);
}

fn int8(name: &str) -> Tensor {
    Tensor::new(name, DataType::Int8, vec![1], Bytes::from_static(&[5]))
}

#[test]
fn an_answer_in_json_needs_no_header_length() {
    let outcome = Outcome { model_version: "2".to_owned(), outputs: vec![int8("a")], ..Outcome::default() };
    let encoded = encode_response("m", &outcome, "", &Mirror::plain()).unwrap();
    assert_eq!(
        str::from_utf8(&encoded.body).unwrap(),
        r#"{"model_name":"m","model_version":"2","outputs":[{"name":"a","datatype":"INT8","shape":[1],"data":[5]}]}"#
    );
    assert_eq!((encoded.header_length, encoded.content_type()), (None, "application/json"));
}

#[test]
fn an_output_that_is_not_text_must_be_asked_for_in_binary() {
    let tensor = Tensor::new("o", DataType::Bytes, vec![1], Bytes::from_static(b"\x01\0\0\0\xff"));
    let outcome = Outcome { outputs: vec![tensor], ..Outcome::default() };
    let error = encode_response("m", &outcome, "", &Mirror::plain()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "output \"o\": BYTES element 0 is not UTF-8; ask for it with \"binary_data\": true"
    );
    assert!(encode_response("m", &outcome, "", &Mirror::binary()).is_ok());
}

#[test]
fn a_raw_body_is_the_one_input_of_its_model() {
    let spec = |datatype, shape: &[i64]| TensorSpec { name: "x".to_owned(), datatype, shape: shape.to_vec() };
    let raw = |inputs: Vec<TensorSpec>, body: &'static [u8]| {
        let metadata = Metadata { name: "m".to_owned(), inputs, ..Metadata::default() };
        parse_raw(&Bytes::from_static(body), &metadata).map(|mut decoded| decoded.inference.inputs.remove(0))
    };
    let tensor = raw(vec![spec(DataType::Int16, &[-1, 2])], b"12345678").unwrap();
    assert_eq!((tensor.shape, &tensor.data[..]), (vec![2, 2], b"12345678".as_slice()));
    let tensor = raw(vec![spec(DataType::Bytes, &[-1, 1])], b"ab").unwrap();
    assert_eq!((tensor.shape, &tensor.data[..]), (vec![1, 1], b"\x02\0\0\0ab".as_slice()));
    let sentence = |inputs, body| raw(inputs, body).unwrap_err().to_string();
    assert_eq!(
        sentence(vec![spec(DataType::Int16, &[-1, 2])], b"123456"),
        "input \"x\": 6 bytes of data, but INT16 [1,2] takes 4"
    );
    let two = vec![spec(DataType::Int8, &[1]), spec(DataType::Int8, &[1])];
    assert_eq!(
        sentence(two, b"1"),
        "a raw body needs a model with one input of a known size, model \"m\" has 2 inputs"
    );
    assert!(raw(vec![spec(DataType::Int8, &[-1, 0])], b"1").is_err());
}

#[test]
fn a_peek_finds_what_concerns_the_gateway_past_the_data() {
    let body = br#"{"id":"a","inputs":[{"data":[1,"]"]}],"parameters":{"timeout":5,"priority":3}}"#;
    let expected =
        Peek { id: Some("a".to_owned()), class: Some(Class::Low), timeout: Some(Duration::from_micros(5)) };
    assert_eq!(peek(body), expected);
    assert_eq!(peek(&[body.as_slice(), b"\xff\xfe"].concat()), expected);
    assert_eq!(peek(b"{\"id\":\"a\",\"inputs\":oops").id.as_deref(), Some("a"));
    assert_eq!(peek(b"\xff"), Peek::default());
}

#[test]
fn a_server_may_answer_null_for_nan() {
    let body = br#"{"model_name":"m","outputs":[{"name":"o","shape":[2],"datatype":"FP32","data":[null,-Infinity]}]}"#;
    let outcome = decode_response(&Bytes::from_static(body), None).unwrap();
    let data = &outcome.outputs[0].data;
    assert!(f32::from_le_bytes(data[..4].try_into().unwrap()).is_nan());
    assert_eq!(data[4..], f32::NEG_INFINITY.to_le_bytes());
}

fn style() -> impl Strategy<Value = (Style, Values)> {
    prop_oneof![Just((Style::Json, Values::Json)), Just((Style::Binary, Values::Any))]
}

fn request() -> impl Strategy<Value = (Style, Inference)> {
    style().prop_flat_map(|(style, values)| (Just(style), arbitrary::inference(values)))
}

proptest! {
    #[test]
    fn requests_survive((style, inference) in request()) {
        let Encoded { body, header_length } = encode_request(&inference, style).unwrap();
        let decoded = decode(&body, header_length).unwrap();
        prop_assert_eq!(decoded.inference, inference);
    }

    #[test]
    fn responses_survive_in_json(outcome in arbitrary::outcome(Values::Json)) {
        let Encoded { body, header_length } = encode_response("m", &outcome, "i", &Mirror::plain()).unwrap();
        prop_assert_eq!(decode_response(&body, header_length).unwrap(), outcome);
    }

    #[test]
    fn responses_survive_in_binary(outcome in arbitrary::outcome(Values::Any)) {
        let Encoded { body, header_length } = encode_response("m", &outcome, "i", &Mirror::binary()).unwrap();
        prop_assert_eq!(decode_response(&body, header_length).unwrap(), outcome);
    }

    #[test]
    fn a_damaged_body_is_decoded_or_refused(
        (style, inference) in request(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        shift in -2isize..3,
    ) {
        let Encoded { body, header_length } = encode_request(&inference, style).unwrap();
        let mut damaged = body.to_vec();
        for (index, byte) in damage {
            let index = index.index(damaged.len());
            damaged[index] = byte;
        }
        damaged.truncate(cut.index(damaged.len()) + 1 + damaged.len() / 2);
        let damaged = Bytes::from(damaged);
        let header_length = header_length.map(|length| length.saturating_add_signed(shift));
        if let Err(error) = decode(&damaged, header_length) {
            let text = error.to_string();
            prop_assert!(text.chars().count() <= 300 && !text.contains(char::is_control), "{}", text);
        }
        let _ = decode_response(&damaged, header_length);
        let _ = peek(&damaged);
    }

    #[test]
    fn what_is_charged_is_at_least_what_is_made(inference in arbitrary::inference(Values::Json)) {
        let Encoded { body, .. } = encode_request(&inference, Style::Json).unwrap();
        let parsed = parse(&body, None).unwrap();
        prop_assert!(parsed.decoded_bytes() >= inference.bytes());
    }

    #[test]
    fn arbitrary_bytes_are_refused(body in any::<Vec<u8>>(), header_length in any::<Option<u8>>()) {
        let body = Bytes::from(body);
        prop_assert!(decode(&body, header_length.map(usize::from)).is_err());
    }
}
