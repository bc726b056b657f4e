use std::path::PathBuf;

use super::*;

fn examples() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

fn load(name: &str) -> Model {
    Model::from_path(name, &examples().join("models").join(format!("{name}.onnx"))).unwrap()
}

fn fp32(name: &str, shape: &[u64], values: &[f32]) -> Tensor {
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    Tensor::new(name, DataType::Fp32, shape.to_vec(), data.into())
}

fn int64(name: &str, shape: &[u64], values: &[i64]) -> Tensor {
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    Tensor::new(name, DataType::Int64, shape.to_vec(), data.into())
}

fn request(inputs: Vec<Tensor>) -> Inference {
    Inference { inputs, ..Inference::default() }
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn ints(tensor: &Tensor) -> Vec<i64> {
    tensor.data.chunks_exact(8).map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap())).collect()
}

struct Sample {
    pixels: Vec<f32>,
    label: i64,
    predicted: i64,
}

fn held_out() -> Vec<Sample> {
    let text = std::fs::read(examples().join("digits-heldout.json")).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let sample = |value: &serde_json::Value| Sample {
        pixels: value["pixels"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap() as f32).collect(),
        label: value["label"].as_i64().unwrap(),
        predicted: value["predicted"].as_i64().unwrap(),
    };
    file["samples"].as_array().unwrap().iter().map(sample).collect()
}

fn pixels(samples: &[Sample]) -> Inference {
    let values: Vec<f32> = samples.iter().flat_map(|sample| sample.pixels.clone()).collect();
    request(vec![fp32("pixels", &[samples.len() as u64, 64], &values)])
}

fn mixed(rows: u64) -> Inference {
    let count = i64::try_from(rows).unwrap() * 3;
    let ids: Vec<i64> = (0..count).collect();
    let weights: Vec<f32> = ids.iter().map(|id| *id as f32 / 2.0).collect();
    request(vec![fp32("weights", &[rows, 3], &weights), int64("ids", &[rows, 3], &ids)])
}

fn spec(name: &str, datatype: DataType, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.to_owned(), datatype, shape: shape.to_vec() }
}

#[test]
fn metadata_comes_from_the_graph_with_symbols_as_any_length() {
    let digits = load("digits");
    let metadata = digits.metadata();
    assert_eq!(metadata.inputs, [spec("pixels", DataType::Fp32, &[-1, 64])]);
    assert_eq!(
        metadata.outputs,
        [spec("class", DataType::Int64, &[-1]), spec("probabilities", DataType::Fp32, &[-1, 10])]
    );
    assert!(metadata.has_batch_dimension());
    let mixed = load("mixed");
    let expected = [spec("ids", DataType::Int64, &[-1, 3]), spec("weights", DataType::Fp32, &[-1, 3])];
    assert_eq!(mixed.metadata().inputs, expected);
}

#[test]
fn every_held_out_digit_gets_the_class_recorded_when_the_model_was_trained() {
    let (digits, samples) = (load("digits"), held_out());
    let mut right = 0;
    for sample in &samples {
        let outcome = digits.infer(&pixels(std::slice::from_ref(sample))).unwrap();
        let class = ints(&outcome.outputs[0]);
        assert_eq!(class, [sample.predicted]);
        right += usize::from(class == [sample.label]);
    }
    // The accuracy written down in examples/models/README.md.
    assert_eq!((right, samples.len()), (442, 450));
}

#[test]
fn a_batch_gives_each_row_what_it_would_get_alone() {
    let (digits, samples) = (load("digits"), held_out());
    let whole = digits.infer(&pixels(&samples)).unwrap();
    assert_eq!(whole.outputs[1].shape, [samples.len() as u64, 10]);
    let classes = ints(&whole.outputs[0]);
    let probabilities = floats(&whole.outputs[1]);
    for (row, sample) in samples.iter().enumerate() {
        let alone = digits.infer(&pixels(std::slice::from_ref(sample))).unwrap();
        assert_eq!(ints(&alone.outputs[0]), [classes[row]]);
        let together = &probabilities[row * 10..][..10];
        assert!(
            floats(&alone.outputs[1]).iter().zip(together).all(|(a, b)| (a - b).abs() < 1e-5),
            "row {row}"
        );
    }
}

#[test]
fn several_named_inputs_are_found_in_any_order() {
    let outcome = load("mixed").infer(&mixed(2)).unwrap();
    let names: Vec<_> = outcome.outputs.iter().map(|output| output.name.as_str()).collect();
    assert_eq!(names, ["sum", "echo"]);
    assert_eq!(floats(&outcome.outputs[0]), [2.5, 25.0]);
    assert_eq!(ints(&outcome.outputs[1]), [0, 1, 2, 3, 4, 5]);
    assert_eq!(outcome.outputs[0].shape, [2, 1]);
}

#[test]
fn only_the_outputs_asked_for_come_back_in_the_order_asked_for() {
    let named = |name: &str| RequestedOutput { name: name.to_owned(), ..RequestedOutput::default() };
    let model = load("mixed");
    for names in [&["echo"][..], &["echo", "sum"]] {
        let asked = Inference { outputs: names.iter().copied().map(named).collect(), ..mixed(1) };
        let outcome = model.infer(&asked).unwrap();
        assert_eq!(outcome.outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>(), names);
    }
}

#[test]
fn a_request_that_does_not_fit_is_the_callers_fault() {
    let model = load("mixed");
    let (ids, weights) = (int64("ids", &[1, 3], &[1, 2, 3]), fp32("weights", &[1, 3], &[1.0; 3]));
    let unknown = RequestedOutput { name: "nothing".to_owned(), ..RequestedOutput::default() };
    for (inference, word) in [
        (request(vec![ids.clone()]), "weights"),
        (request(vec![ids.clone(), fp32("weights", &[2, 3], &[1.0; 6])]), "weights"),
        (request(vec![ids.clone(), fp32("weights", &[1, 2], &[1.0; 2])]), "weights"),
        (request(vec![ids.clone(), int64("weights", &[1, 3], &[1; 3])]), "INT64"),
        (request(vec![ids.clone(), weights.clone(), fp32("more", &[1], &[1.0])]), "more"),
        (request(vec![ids.clone(), fp32("weights", &[1, 3], &[1.0; 2])]), "12"),
        (request(vec![int64("ids", &[0, 3], &[]), fp32("weights", &[0, 3], &[])]), "0"),
        (Inference { outputs: vec![unknown], ..request(vec![ids, weights]) }, "nothing"),
    ] {
        let error = model.infer(&inference).unwrap_err();
        assert!(!matches!(error, InferError::Failed(_)), "{inference:?}: {error:?}");
        assert!(error.to_string().contains(word), "{inference:?}: {error}");
    }
}

#[test]
fn a_dimension_that_two_inputs_share_has_one_size() {
    let mut model = load("mixed");
    let length = TDim::Sym(model.plan.model().symbols.sym("length"));
    for port in &mut model.inputs {
        port.shape[1] = length.clone();
    }
    let inputs = |ids: &[i64], weights: &[f32]| {
        let (a, b) = (ids.len() as u64, weights.len() as u64);
        request(vec![int64("ids", &[1, a], ids), fp32("weights", &[1, b], weights)])
    };
    assert!(model.check_shared_dimensions(&inputs(&[1, 2], &[1.0, 2.0])).is_ok());
    let error = model.check_shared_dimensions(&inputs(&[1, 2], &[1.0])).unwrap_err();
    assert_eq!(error.to_string(), r#"inputs disagree on dimension "length": "ids" has 2, "weights" has 1"#);
}

#[test]
fn a_boolean_that_is_neither_true_nor_false_is_refused() {
    let port = Port {
        name: "flags".to_owned(),
        datatype: DataType::Bool,
        datum_type: DatumType::Bool,
        shape: vec![TDim::Val(2)],
    };
    let flags = |data: &'static [u8]| Tensor::new("flags", DataType::Bool, vec![2], data.into());
    assert!(to_tract(&port, &flags(&[0, 1])).is_ok());
    let refused = to_tract(&port, &flags(&[1, 2])).unwrap_err();
    assert!(matches!(refused, InferError::Input { problem: InputProblem::NotBool(1), .. }), "{refused}");
}

#[test]
fn what_is_not_a_servable_model_is_refused_with_its_name() {
    let onnx = std::fs::read(examples().join("models/digits.onnx")).unwrap();
    let error = Model::from_bytes("broken", &onnx[..onnx.len() / 2]).unwrap_err();
    assert!(error.to_string().contains("broken"), "{error}");
    for name in ["", "a/b", "-x", "m m", &"x".repeat(129)] {
        assert!(matches!(Model::from_bytes(name, &onnx), Err(LoadError::Name(_))), "{name}");
    }
    let missing = Model::from_path("m", &examples().join("models/none.onnx")).unwrap_err();
    assert!(matches!(missing, LoadError::Read { .. }), "{missing}");
}
