use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn request(json: &str) -> Result<EmbeddingsRequest, Error> {
    decode(&Bytes::copy_from_slice(json.as_bytes()))
}

fn inputs(input: &str) -> Result<Vec<String>, String> {
    let request =
        request(&format!(r#"{{"model":"m","input":{input}}}"#)).map_err(|error| error.to_string())?;
    Ok(request.inputs().iter().map(|input| String::from_utf8(input.to_vec()).unwrap()).collect())
}

/// Answers as an engine does, with the input itself for its vector, in the order that `place` gives.
fn answer(merged: &[u8], tokens: u64, place: impl Fn(&usize) -> u64) -> String {
    let request: Value = serde_json::from_slice(merged).unwrap();
    let mut data: Vec<Value> = request["input"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(index, input)| json!({"object": "embedding", "index": index, "embedding": [input, 0.5]}))
        .collect();
    data.sort_by_cached_key(|row| place(&usize::try_from(row["index"].as_u64().unwrap()).unwrap()));
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens, "prompt_tokens_details": null});
    json!({"object": "list", "id": "e", "data": data, "model": request["model"], "usage": usage}).to_string()
}

/// The answers to two requests of one row and two rows.
fn split_rows(data: &str) -> Result<Vec<Value>, String> {
    let share = |rows| Share { rows, bytes: rows };
    let answers = split(format!(r#"{{"data":{data}}}"#).as_bytes(), &[share(1), share(2)]);
    let answers = answers.map_err(|error| error.to_string())?;
    Ok(answers.iter().map(|answer| serde_json::from_slice(answer).unwrap()).collect())
}

#[test]
fn inputs_are_texts_or_token_lists() {
    let cases: [(&str, &[&str]); 6] = [
        (r#""a""#, &[r#""a""#]),
        (r#" [ "a" , "é\n" ]"#, &[r#""a""#, r#""é\n""#]),
        (r#"[""]"#, &[r#""""#]),
        ("[1, 2]", &["[1, 2]"]),
        ("[[1,2],[3]]", &["[1,2]", "[3]"]),
        ("[[]]", &["[]"]),
    ];
    for (input, expected) in cases {
        assert_eq!(inputs(input).unwrap(), expected);
    }
    let wrong = "\"input\" must be a text or tokens, or a list of one of these";
    for input in ["null", "7", "{}", "[null]", "[{}]", r#"[1,"a"]"#, r#"["a",[1]]"#, r#"[["a"]]"#, "[[[1]]]"]
    {
        assert_eq!(inputs(input).unwrap_err(), wrong, "{input}");
    }
    assert_eq!(inputs("[]").unwrap_err(), "\"input\" is empty");
    assert_eq!(inputs(r#"1,"input":2"#).unwrap_err(), wrong);
    assert_eq!(inputs(r#""a","input":"b""#).unwrap_err(), "duplicate field \"input\"");
    assert_eq!(request(r#"{"model":"m"}"#).unwrap_err(), Error::MissingField("input"));
    assert_eq!(request("[]").unwrap_err(), Error::NotAnObject);
}

#[test]
fn a_request_has_a_largest_number_of_inputs() {
    let texts = |count| format!("[{}]", vec!["\"\""; count].join(","));
    assert_eq!(inputs(&texts(INPUTS_MAX)).unwrap().len(), INPUTS_MAX);
    assert_eq!(inputs(&texts(INPUTS_MAX + 1)).unwrap_err(), "more than 2048 inputs");
    let tokens = format!("[{}]", vec!["7"; INPUTS_MAX + 1].join(","));
    assert_eq!(inputs(&tokens).unwrap(), [tokens]);
}

#[test]
fn inputs_stay_where_they_are() {
    let body = Bytes::from_static(br#"{"input":["some text"],"model":"m"}"#);
    let request = decode(&body).unwrap();
    assert_eq!(request.inputs()[0].as_ptr(), body[10..].as_ptr());
}

#[test]
fn requests_that_ask_for_the_same_have_one_key() {
    let key = |json| request(json).unwrap().key();
    let plain = key(r#"{"model":"m","input":"a"}"#);
    assert_eq!(key(r#"{ "input": ["b", "c"], "user":"u", "model" : "m" }"#), plain);
    for other in [
        r#"{"model":"n","input":"a"}"#,
        r#"{"model":"m","input":"a","dimensions":7}"#,
        r#"{"model":"m","input":[1]}"#,
    ] {
        assert_ne!(key(other), plain, "{other}");
    }
}

#[test]
fn one_request_is_made_of_several() {
    let a = request(r#"{"model":"m","input":"a","user":"u","encoding_format":"base64"}"#).unwrap();
    let b = request(r#"{"model":"m","encoding_format":"base64","input":["b","c"]}"#).unwrap();
    assert_eq!(merge(&[&a, &b]), r#"{"input":["a","b","c"],"model":"m","encoding_format":"base64"}"#);
    let tokens = request(r#"{"input":[1,2]}"#).unwrap();
    assert_eq!(merge(&[&tokens, &tokens]), r#"{"input":[[1,2],[1,2]]}"#);
}

#[test]
fn each_caller_gets_its_rows_from_0_on_and_all_else() {
    let answer = r#"{"id" : "e", "data":[{"index":2,"embedding":"c"},{"embedding":"a","index": 0},
        {"embedding":[1.5, -2e-3],"x":[{}],"index":1.0}],"usage":{"prompt_tokens":10,"total_tokens":10,
        "details":{"a":7,"b":null},"cost":0.5}}"#;
    let shares = [Share { rows: 1, bytes: 1 }, Share { rows: 2, bytes: 2 }];
    let answers = split(answer.as_bytes(), &shares).unwrap();
    assert_eq!(
        answers[0],
        concat!(
            r#"{"id":"e","data":[{"embedding":"a","index": 0}],"#,
            r#""usage":{"prompt_tokens":3,"total_tokens":3,"details":{"a":2,"b":null},"cost":0.5}}"#
        )
    );
    assert_eq!(
        answers[1],
        concat!(
            r#"{"id":"e","data":[{"embedding":[1.5, -2e-3],"x":[{}],"index":0},{"index":1,"embedding":"c"}],"#,
            r#""usage":{"prompt_tokens":7,"total_tokens":7,"details":{"a":5,"b":null},"cost":0.5}}"#
        )
    );
}

#[test]
fn nobody_gets_rows_of_an_answer_that_is_not_whole() {
    let row = |index: &str| format!(r#"{{"index":{index},"embedding":[]}}"#);
    let rows =
        |indices: &[&str]| format!("[{}]", indices.iter().map(|i| row(i)).collect::<Vec<_>>().join(","));
    assert_eq!(split_rows(&rows(&["2", "0", "1"])).unwrap().len(), 2);
    let twice = |index| format!("\"index\" {index} of an embedding is given twice or belongs to no input");
    let whole = "\"index\" must be a whole number".to_owned();
    let cases = [
        (rows(&[]), "0 embeddings for 3 inputs".to_owned()),
        (rows(&["0", "1"]), "2 embeddings for 3 inputs".to_owned()),
        (rows(&["0", "1", "2", "3"]), "4 embeddings for 3 inputs".to_owned()),
        (rows(&["0", "1", "1"]), twice(1)),
        (rows(&["1", "2", "3"]), twice(3)),
        (rows(&["0", "1", "-2"]), whole.clone()),
        (rows(&["0", "1", "0.5"]), whole.clone()),
        (rows(&["0", "1", "\"2\""]), whole),
        (rows(&["0", "1", "2,\"index\":2"]), "duplicate field \"index\"".to_owned()),
        ("[{},{},{}]".to_owned(), "missing field \"index\"".to_owned()),
        ("[0,1,2]".to_owned(), "\"data\" must be a list of objects".to_owned()),
        ("{}".to_owned(), "\"data\" must be a list of objects".to_owned()),
        (format!(r#"{0},"data":{0}"#, rows(&["0", "1", "2"])), "duplicate field \"data\"".to_owned()),
    ];
    for (data, sentence) in cases {
        assert_eq!(split_rows(&data).unwrap_err(), sentence, "{data}");
    }
    assert_eq!(split(b"{}", &[]).unwrap_err(), Error::MissingField("data"));
    assert!(split(br#"{"data":[]}{"#, &[]).is_err());
}

fn input() -> impl Strategy<Value = Value> {
    prop_oneof![
        ".{0,12}".prop_map(Value::from),
        prop::collection::vec(".{0,12}".prop_map(Value::from), 1..4).prop_map(Value::from),
    ]
}

proptest! {
    #[test]
    fn everyone_gets_their_own_rows(
        callers in prop::collection::vec(input(), 1..6),
        tokens in 0u64..10_000,
        places in prop::collection::vec(any::<u64>(), 24),
    ) {
        let bodies = callers.iter().map(|input| json!({"model": "m", "input": input}).to_string());
        let requests: Vec<EmbeddingsRequest> = bodies.map(|body| request(&body).unwrap()).collect();
        let merged = merge(&requests.iter().collect::<Vec<_>>());
        let shares: Vec<Share> = requests.iter().map(EmbeddingsRequest::share).collect();
        let answers = split(answer(&merged, tokens, |index| places[*index]).as_bytes(), &shares).unwrap();
        prop_assert_eq!(answers.len(), callers.len());
        let mut shared = 0;
        for (answer, input) in answers.iter().zip(&callers) {
            let answer: Value = serde_json::from_slice(answer).unwrap();
            let inputs = input.as_array().cloned().unwrap_or_else(|| vec![input.clone()]);
            let data: Vec<Value> = inputs
                .iter()
                .enumerate()
                .map(|(index, input)| json!({"object": "embedding", "index": index, "embedding": [input, 0.5]}))
                .collect();
            prop_assert_eq!(&answer["data"], &Value::from(data));
            prop_assert_eq!(&answer["model"], "m");
            prop_assert_eq!(&answer["usage"]["prompt_tokens"], &answer["usage"]["total_tokens"]);
            shared += answer["usage"]["prompt_tokens"].as_u64().unwrap();
        }
        prop_assert_eq!(shared, tokens);
    }

    #[test]
    fn an_answer_that_is_cut_is_refused(cut in any::<prop::sample::Index>()) {
        let requests = [request(r#"{"input":["a","b"]}"#).unwrap(), request(r#"{"input":"c"}"#).unwrap()];
        let shares = requests.each_ref().map(EmbeddingsRequest::share);
        let answer = answer(&merge(&requests.each_ref()), 9, |index| *index as u64);
        prop_assert!(split(answer.as_bytes(), &shares).is_ok());
        prop_assert!(split(&answer.as_bytes()[..cut.index(answer.len())], &shares).is_err());
    }
}
