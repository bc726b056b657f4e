use bytes::Bytes;
use pipeline::request::RequestedOutput;

use super::*;
use crate::Reason;

fn spec(name: &str, datatype: DataType, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.to_owned(), datatype, shape: shape.to_vec() }
}

fn model(inputs: Vec<TensorSpec>) -> Metadata {
    Metadata {
        name: "m".to_owned(),
        versions: vec!["1".to_owned(), "2".to_owned()],
        platform: "onnx".to_owned(),
        inputs,
        outputs: vec![spec("OUT", DataType::Fp32, &[-1, 10])],
    }
}

fn tensor(name: &str, datatype: DataType, shape: &[u64]) -> Tensor {
    Tensor::new(name, datatype, shape.to_vec(), Bytes::new())
}

fn sentence(inputs: Vec<Tensor>, outputs: &[&str], metadata: &Metadata) -> String {
    let outputs =
        outputs.iter().map(|name| RequestedOutput { name: (*name).to_owned(), ..Default::default() });
    let inference = Inference { inputs, outputs: outputs.collect(), ..Inference::default() };
    let error = check(&inference, metadata).unwrap_err();
    assert_eq!(error.reason(), Reason::BadTensor);
    error.to_string()
}

#[test]
fn what_does_not_fit_the_model_is_said_in_numbers() {
    let image = model(vec![spec("INPUT0", DataType::Fp32, &[-1, 3, 224, 224])]);
    let good = || tensor("INPUT0", DataType::Fp32, &[2, 3, 224, 224]);
    let two = model(vec![spec("A", DataType::Fp32, &[-1, 4]), spec("B", DataType::Int32, &[-1])]);
    let cases = [
        (
            sentence(vec![tensor("X", DataType::Fp32, &[1])], &[], &image),
            "model \"m\" has no input \"X\"; it expects: INPUT0 (FP32 [-1,3,224,224])",
        ),
        (
            sentence(vec![tensor("A", DataType::Fp32, &[1, 4])], &[], &two),
            "model \"m\" needs input \"B\" (INT32 [-1])",
        ),
        (
            sentence(vec![tensor("INPUT0", DataType::Uint8, &[2, 3, 224, 224])], &[], &image),
            "input \"INPUT0\": datatype is UINT8, model \"m\" takes FP32",
        ),
        (
            sentence(vec![tensor("INPUT0", DataType::Fp32, &[3, 224, 224])], &[], &image),
            "input \"INPUT0\": shape [3,224,224] does not match [-1,3,224,224] of model \"m\"",
        ),
        (
            sentence(vec![tensor("INPUT0", DataType::Fp32, &[2, 1, 224, 224])], &[], &image),
            "input \"INPUT0\": shape [2,1,224,224] does not match [-1,3,224,224] of model \"m\"",
        ),
        (
            sentence(vec![good()], &["OUT", "Z"], &image),
            "model \"m\" has no output \"Z\"; it has: OUT (FP32 [-1,10])",
        ),
        (
            sentence(
                vec![tensor("A", DataType::Fp32, &[4, 4]), tensor("B", DataType::Int32, &[3])],
                &[],
                &two,
            ),
            "inputs disagree on batch size: A=4, B=3",
        ),
    ];
    for (got, expected) in cases {
        assert_eq!(got, expected);
    }
    let fits = Inference { inputs: vec![good()], ..Inference::default() };
    assert_eq!(check(&fits, &image), Ok(()));
}

#[test]
fn a_model_that_says_nothing_takes_everything() {
    let inference = Inference { inputs: vec![tensor("X", DataType::Fp32, &[1])], ..Inference::default() };
    assert_eq!(check(&inference, &Metadata::default()), Ok(()));
}

#[test]
fn the_longest_sentence_stays_within_bounds() {
    let long = |c: char| c.to_string().repeat(1000);
    let specs = (0..50).map(|i| spec(&format!("{}{i}", long('n')), DataType::Uint16, &[-1; 60])).collect();
    let metadata = Metadata { name: long('m'), ..model(specs) };
    let text = sentence(vec![tensor(&long('\u{1}'), DataType::Fp32, &[1])], &[], &metadata);
    assert!(text.chars().count() <= 300, "{text}");
}

#[test]
fn metadata_survives_json_and_grpc() {
    let metadata = model(DataType::ALL.map(|d| spec(d.as_str(), d, &[-1, 3])).to_vec());
    assert_eq!(from_json(&to_json(&metadata)), Ok(metadata.clone()));
    assert_eq!(from_grpc(to_grpc(&metadata)), Ok(metadata));
}

#[test]
fn metadata_with_an_unknown_datatype_is_refused() {
    let body = br#"{"name":"m","inputs":[{"name":"x","datatype":"FLOAT","shape":[1]}]}"#;
    let text = from_json(body).unwrap_err().to_string();
    assert!(text.starts_with("inputs[0]: datatype \"FLOAT\" is not one of BOOL"), "{text}");
}

#[test]
fn a_configuration_has_rows_only_where_there_is_a_batch_dimension() {
    let batched = model(vec![spec("A", DataType::Bytes, &[-1, 4])]);
    assert_eq!(
        config_json(&batched, 32),
        concat!(
            r#"{"name":"m","platform":"onnx","max_batch_size":32,"#,
            r#""input":[{"name":"A","data_type":"TYPE_STRING","dims":[4]}],"#,
            r#""output":[{"name":"OUT","data_type":"TYPE_FP32","dims":[10]}]}"#
        )
    );
    let fixed = config_grpc(&model(vec![spec("A", DataType::Bytes, &[1, 4])]), 32);
    assert_eq!((fixed.max_batch_size, fixed.input[0].dims.as_slice()), (0, [1, 4].as_slice()));
    assert_eq!(fixed.output[0].dims, [-1, 10]);
}
