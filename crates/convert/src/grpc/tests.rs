use std::time::Duration;

use pipeline::request::Class;
use proptest::prelude::*;

use super::*;
use crate::{
    Reason,
    arbitrary::{self, Values},
};

fn input(datatype: &str, shape: &[i64], contents: Option<InferTensorContents>) -> InferInputTensor {
    InferInputTensor {
        name: "x".to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        contents,
        ..Default::default()
    }
}

fn request(inputs: Vec<InferInputTensor>, raw: &[&'static [u8]]) -> ModelInferRequest {
    let raw_input_contents = raw.iter().map(|raw| Bytes::from_static(raw)).collect();
    ModelInferRequest { inputs, raw_input_contents, ..Default::default() }
}

fn floats(values: &[f32]) -> Option<InferTensorContents> {
    Some(InferTensorContents { fp32_contents: values.to_vec(), ..Default::default() })
}

fn ints(values: &[i32]) -> Option<InferTensorContents> {
    Some(InferTensorContents { int_contents: values.to_vec(), ..Default::default() })
}

fn with(name: &str, choice: ParameterChoice) -> HashMap<String, InferParameter> {
    [(name.to_owned(), InferParameter { parameter_choice: Some(choice) })].into()
}

#[track_caller]
fn assert_refused(request: ModelInferRequest, sentence: &str, reason: Reason) {
    let error = decode_request(request).unwrap_err();
    assert_eq!(error.to_string(), sentence);
    assert_eq!(error.reason(), reason, "{sentence}");
}

#[test]
fn what_is_wrong_with_contents_is_said_in_numbers() {
    let one = || input("FP32", &[1], None);
    let cases = [
        (request(vec![], &[]), r#""inputs" is empty"#, Reason::BadRequest),
        (request(vec![one(), one()], &[b"1234", b"1234"]), "input \"x\" is given twice", Reason::BadRequest),
        (
            request(vec![one(), InferInputTensor { name: "y".to_owned(), ..one() }], &[b"1234"]),
            "raw_input_contents must be given for all inputs: 2 inputs, 1 given",
            Reason::BadTensor,
        ),
        (
            request(vec![input("FP32", &[1], floats(&[1.0]))], &[b"1234"]),
            "input \"x\": contents and raw_input_contents exclude each other",
            Reason::BadTensor,
        ),
        (
            request(vec![one()], &[b"123"]),
            "input \"x\": 3 bytes of data, but FP32 [1] takes 4",
            Reason::BadTensor,
        ),
        (
            request(vec![input("FP32", &[1, 4], floats(&[1.0, 2.0, 3.0]))], &[]),
            "input \"x\": shape [1,4] needs 4 values, got 3",
            Reason::BadTensor,
        ),
        (
            request(vec![input("INT64", &[1], ints(&[1]))], &[]),
            "input \"x\": INT64 belongs in int64_contents",
            Reason::BadTensor,
        ),
        (
            request(vec![input("INT8", &[2], ints(&[1, 300]))], &[]),
            "input \"x\": value 300 at data[1] does not fit INT8",
            Reason::BadTensor,
        ),
        (
            request(vec![input("FP16", &[1], floats(&[1.0]))], &[]),
            "input \"x\": FP16 has no typed contents; use raw_input_contents",
            Reason::BadTensor,
        ),
        (
            request(vec![input("FP32", &[2, -1], None)], &[b""]),
            "input \"x\": shape[1] is -1; a dimension is 0 to 2147483648",
            Reason::BadTensor,
        ),
        (
            request(vec![input("FP32", &[1 << 31, 1 << 31, 1 << 31], None)], &[b""]),
            "input \"x\": shape product overflows",
            Reason::BadTensor,
        ),
        (
            request(vec![input("FP32", &[1; 17], None)], &[b""]),
            "input \"x\": shape has more than 16 dimensions",
            Reason::BadTensor,
        ),
        (
            request(vec![input("BYTES", &[1], None)], &[b"\x05\0\0\0ab"]),
            "input \"x\": BYTES element 0 is cut off: 5 bytes declared, 2 left",
            Reason::BadTensor,
        ),
    ];
    for (request, sentence, reason) in cases {
        assert_refused(request, sentence, reason);
    }
}

#[test]
fn what_is_wrong_with_the_rest_of_a_request_is_said() {
    let one = || input("FP32", &[1], None);
    let cases = [
        (
            ModelInferRequest { id: "a\n".to_owned(), ..request(vec![one()], &[b"1234"]) },
            "\"id\" has a control character",
            Reason::BadRequest,
        ),
        (
            ModelInferRequest {
                parameters: with("timeout", ParameterChoice::StringParam("1".to_owned())),
                ..request(vec![one()], &[b"1234"])
            },
            "parameter \"timeout\" must be a whole number of microseconds",
            Reason::BadRequest,
        ),
        (
            request(
                vec![InferInputTensor {
                    parameters: with("shared_memory_region", ParameterChoice::StringParam("r".to_owned())),
                    ..one()
                }],
                &[b"1234"],
            ),
            "shared memory is not available through the gateway",
            Reason::Unsupported,
        ),
    ];
    for (request, sentence, reason) in cases {
        assert_refused(request, sentence, reason);
    }
}

#[test]
fn priority_and_timeout_are_taken_out() {
    let mut request = request(vec![input("INT8", &[1], ints(&[-1]))], &[]);
    request.parameters = with("timeout", ParameterChoice::Int64Param(7));
    request.parameters.extend(with("priority", ParameterChoice::Uint64Param(2)));
    let decoded = decode_request(request).unwrap();
    assert_eq!((decoded.class, decoded.timeout), (Some(Class::Normal), Some(Duration::from_micros(7))));
    assert_eq!(decoded.inference.parameters, Parameters::new());
    assert_eq!(decoded.inference.inputs[0].data, [255].as_slice());
}

#[test]
fn parameters_of_binary_rest_bodies_are_dropped() {
    let size = with("binary_data_size", ParameterChoice::Int64Param(4));
    let flag = |name| with(name, ParameterChoice::BoolParam(true));
    let tensor = InferInputTensor { parameters: size.clone(), ..input("FP32", &[1], floats(&[1.0])) };
    let wanted = InferRequestedOutputTensor { name: "y".to_owned(), parameters: flag("binary_data") };
    let request = ModelInferRequest {
        outputs: vec![wanted],
        parameters: flag("binary_data_output"),
        ..request(vec![tensor], &[])
    };
    let inference = decode_request(request).unwrap().inference;
    assert_eq!(inference.parameters, Parameters::default());
    assert_eq!(inference.inputs[0].parameters, Parameters::default());
    assert_eq!(inference.outputs[0].parameters, Parameters::default());
    let output = InferOutputTensor {
        name: "y".to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![1],
        parameters: size,
        contents: floats(&[1.0]),
    };
    let response = ModelInferResponse { outputs: vec![output], ..Default::default() };
    assert_eq!(decode_response(response).unwrap().outputs[0].parameters, Parameters::default());
}

#[test]
fn raw_contents_are_answered_raw_and_typed_ones_typed() {
    let outcome = |datatype, data: &'static [u8]| Outcome {
        outputs: vec![Tensor::new("o", datatype, vec![1], Bytes::from_static(data))],
        ..Outcome::default()
    };
    let mirror = |request| decode_request(request).unwrap().mirror;
    let raw = mirror(request(vec![input("FP32", &[1], None)], &[b"1234"]));
    let typed = mirror(request(vec![input("FP32", &[1], floats(&[1.0]))], &[]));
    let answer = encode_response("m", &outcome(DataType::Int8, &[7]), "", &raw).unwrap();
    assert_eq!((answer.raw_output_contents.len(), &answer.outputs[0].contents), (1, &None));
    let answer = encode_response("m", &outcome(DataType::Int8, &[7]), "", &typed).unwrap();
    assert_eq!((answer.raw_output_contents.len(), &answer.outputs[0].contents), (0, &ints(&[7])));
    let answer = encode_response("m", &outcome(DataType::Fp16, &[7, 7]), "", &typed).unwrap();
    assert_eq!((answer.raw_output_contents.len(), &answer.outputs[0].contents), (1, &None));
}

proptest! {
    #[test]
    fn requests_survive(inference in arbitrary::inference(Values::Any)) {
        let decoded = decode_request(encode_request("m", &inference)).unwrap();
        prop_assert_eq!(decoded.inference, inference);
    }

    #[test]
    fn responses_survive_raw_and_typed(outcome in arbitrary::outcome(Values::Any)) {
        for mirror in [Mirror::plain(), Mirror::typed()] {
            let response = encode_response("m", &outcome, "i", &mirror).unwrap();
            prop_assert_eq!(&decode_response(response).unwrap(), &outcome);
        }
    }
}
