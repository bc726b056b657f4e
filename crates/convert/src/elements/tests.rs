use half::f16;

use super::*;
use crate::{
    error::{Error, Place},
    json::{Dialect, Reader},
};

fn read(datatype: DataType, json: &str, dialect: Dialect) -> Result<(Vec<u64>, Vec<u8>), Error> {
    let mut elements = Elements::new(Place::InputAt(0), datatype, usize::MAX, 0);
    elements.tensor(&mut Reader::new(json.as_bytes(), dialect)?)?;
    Ok(elements.finish())
}

fn problem(datatype: DataType, json: &str) -> String {
    match read(datatype, json, Dialect::Strict) {
        Err(Error::Tensor { problem, .. }) => problem.to_string(),
        other => panic!("{json}: {other:?}"),
    }
}

#[test]
fn numbers_must_fit_their_datatype() {
    let cases = [
        (DataType::Int8, "[0,0,0,0,0,0,0,300]", "value 300 at data[7] does not fit INT8"),
        (DataType::Int8, "[-129]", "value -129 at data[0] does not fit INT8"),
        (DataType::Uint8, "[-1]", "value -1 at data[0] does not fit UINT8"),
        (DataType::Int32, "[1.5]", "value 1.5 at data[0] does not fit INT32"),
        (DataType::Int64, "[9223372036854775808]", "value 9223372036854775808 at data[0] does not fit INT64"),
        (DataType::Uint64, "[1e20]", "value 1e20 at data[0] does not fit UINT64"),
        (DataType::Fp64, "[1e999]", "value 1e999 at data[0] does not fit FP64"),
        (DataType::Fp32, "[[1,1e39]]", "value 1e39 at data[1] does not fit FP32"),
        (DataType::Fp16, "[65520]", "value 65520 at data[0] does not fit FP16"),
        (DataType::Bf16, "[1e39]", "value 1e39 at data[0] does not fit BF16"),
        (DataType::Bool, "[2]", "value 2 at data[0] does not fit BOOL"),
        (DataType::Fp32, "[1,\"a\"]", "data[1] is a string, FP32 takes numbers"),
        (DataType::Fp32, "[null]", "data[0] is null, FP32 takes numbers"),
        (DataType::Int8, "[true]", "data[0] is true, INT8 takes numbers"),
        (DataType::Bool, "[\"true\"]", "data[0] is a string, BOOL takes true and false"),
        (DataType::Bytes, "[1]", "data[0] is a number, BYTES takes strings"),
        (DataType::Bytes, "[{\"b64\":\"?\"}]", "data[0] is not valid base64"),
        (DataType::Fp32, "[{}]", "data[0] is an object, FP32 takes numbers"),
    ];
    for (datatype, json, expected) in cases {
        assert_eq!(problem(datatype, json), expected);
    }
}

#[test]
fn numbers_at_the_edge_fit() {
    let data = |datatype, json| read(datatype, json, Dialect::Strict).unwrap().1;
    assert_eq!(data(DataType::Int8, "[-128,127,1.0,1e1,-0]"), [128, 127, 1, 10, 0]);
    assert_eq!(data(DataType::Uint64, "[18446744073709551615]"), [255; 8]);
    assert_eq!(data(DataType::Bool, "[true,false,1,0]"), [1, 0, 1, 0]);
    assert_eq!(data(DataType::Fp16, "[65504]"), f16::MAX.to_le_bytes());
    // Rounded once, not by way of f64: the nearest f32 is the one above the tie.
    assert_eq!(data(DataType::Fp32, "[1.00000005960464484]"), 1.000_000_1_f32.to_le_bytes());
    assert_eq!(data(DataType::Fp64, "[-0.0]"), (-0.0f64).to_le_bytes());
}

#[test]
fn ragged_data_is_named_by_its_first_odd_index() {
    let cases = [
        ("[[1,2,[3]]]", "[0][2]"),
        ("[[1,2,3],[4,5]]", "[1]"),
        ("[[1],2]", "[1]"),
        ("[1,[2]]", "[1]"),
        ("[[],[1]]", "[1]"),
        ("[[],1]", "[1]"),
        ("[[[1],[2]],[[3],[4,5]]]", "[1][1]"),
    ];
    for (json, path) in cases {
        assert_eq!(problem(DataType::Fp32, json), format!("data is ragged at {path}"));
    }
}

#[test]
fn the_shape_is_that_of_the_arrays() {
    let shape = |json| read(DataType::Int8, json, Dialect::Strict).unwrap().0;
    assert_eq!(shape("[[1,2,3],[4,5,6]]"), [2, 3]);
    assert_eq!(shape("[[[1]],[[2]]]"), [2, 1, 1]);
    assert_eq!(shape("[[],[]]"), [2, 0]);
    assert_eq!(shape("[]"), [0]);
    assert_eq!(shape("7"), [] as [u64; 0]);
}

#[test]
fn numbers_that_are_not_finite_depend_on_the_dialect() {
    let floats = |json, dialect| -> Result<Vec<f32>, Error> {
        let data = read(DataType::Fp32, json, dialect)?.1;
        Ok(data.as_chunks::<4>().0.iter().map(|e| f32::from_le_bytes(*e)).collect())
    };
    let read = floats("[NaN,Infinity,-Infinity]", Dialect::NonFinite).unwrap();
    assert!(read[0].is_nan());
    assert_eq!(read[1..], [f32::INFINITY, f32::NEG_INFINITY]);
    assert!(floats("[null]", Dialect::NonFinite).is_err());
    assert!(floats("[null]", Dialect::Lenient).unwrap()[0].is_nan());
}

#[test]
fn bytes_of_data_are_checked_against_the_shape() {
    let of = |strings: &[&str]| {
        let mut data = Vec::new();
        strings.iter().for_each(|string| push_string(&mut data, string.as_bytes()));
        data
    };
    let check =
        |datatype, shape: &[u64], data: &[u8]| super::check(datatype, shape, data).map_err(|e| e.to_string());
    let error = |text: &str| Err(text.to_owned());
    assert_eq!(check(DataType::Fp32, &[1, 4], &[0; 16]), Ok(()));
    assert_eq!(check(DataType::Fp32, &[1, 4], &[0; 12]), error("12 bytes of data, but FP32 [1,4] takes 16"));
    assert_eq!(check(DataType::Fp32, &[], &[0; 4]), Ok(()));
    assert_eq!(check(DataType::Fp32, &[1 << 31, 0, 1 << 31, 1 << 31], &[]), Ok(()));
    assert_eq!(check(DataType::Fp32, &[1 << 31, 1 << 31, 1 << 31], &[]), error("shape product overflows"));
    assert_eq!(
        check(DataType::Fp32, &[1, (1 << 31) + 1], &[]),
        error("shape[1] is 2147483649; a dimension is 0 to 2147483648")
    );
    assert_eq!(check(DataType::Fp32, &[1; 17], &[]), error("shape has more than 16 dimensions"));
    assert_eq!(check(DataType::Bytes, &[2], &of(&["a", ""])), Ok(()));
    assert_eq!(check(DataType::Bytes, &[0], &[]), Ok(()));
    assert_eq!(check(DataType::Bytes, &[2], &of(&["a"])), error("shape [2] needs 2 values, got 1"));
    assert_eq!(
        check(DataType::Bytes, &[1], &of(&["a", "b"])),
        error("5 bytes are left after BYTES element 0")
    );
    assert_eq!(
        check(DataType::Bytes, &[1], &[144, 1, 0, 0, 7]),
        error("BYTES element 0 is cut off: 400 bytes declared, 1 left")
    );
    assert_eq!(
        check(DataType::Bytes, &[2], &[0, 0, 0, 0, 255, 255, 255, 255]),
        error("BYTES element 1 is cut off: 4294967295 bytes declared, 0 left")
    );
    assert_eq!(
        check(DataType::Bytes, &[1], &[1, 0]),
        error("BYTES element 0 is cut off: 4 bytes declared, 2 left")
    );
}

#[test]
fn floats_are_written_as_short_as_their_datatype_allows() {
    let written = |datatype, data: &[u8]| {
        let mut out = Vec::new();
        Writer::new(datatype, data).flat(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    assert_eq!(written(DataType::Fp32, &0.1f32.to_le_bytes()), "[0.1]");
    assert_eq!(written(DataType::Fp64, &1e300f64.to_le_bytes()), "[1e+300]");
    assert_eq!(written(DataType::Fp32, &f32::NAN.to_le_bytes()), "[NaN]");
    assert_eq!(written(DataType::Fp64, &f64::NEG_INFINITY.to_le_bytes()), "[-Infinity]");
    assert_eq!(written(DataType::Fp16, &f16::INFINITY.to_le_bytes()), "[Infinity]");
    assert_eq!(written(DataType::Bool, &[0, 1, 7]), "[false,true,true]");
}

#[test]
fn bytes_that_are_not_text_are_refused_in_v2_and_base64_in_v1() {
    let mut data = Vec::new();
    push_string(&mut data, b"\xff");
    let refused = Writer::new(DataType::Bytes, &data).flat(&mut Vec::new());
    assert_eq!(refused, Err(Problem::NotText { index: 0 }));
    let mut out = Vec::new();
    Writer::with_base64(DataType::Bytes, &data).flat(&mut out).unwrap();
    assert_eq!(out, br#"[{"b64":"/w=="}]"#);
}
