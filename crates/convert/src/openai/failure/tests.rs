use super::*;

fn told(message: &str, kind: Option<&str>, code: Option<&str>) -> Option<ErrorText> {
    let [kind, code] = [kind, code].map(|text| text.map(str::to_owned));
    Some(ErrorText { message: message.into(), kind, code })
}

#[test]
fn engines_are_understood() {
    let cases = [
        (
            r#"{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}"#,
            told("too long", Some("BadRequestError"), Some("400")),
        ),
        (
            r#"{"object":"error","message":"too long","type":"BadRequestError","param":null,"code":400}"#,
            told("too long", Some("BadRequestError"), Some("400")),
        ),
        (
            r#"{"error":{"code":400,"message":"too long","type":"exceed_context_size_error","n_ctx":512}}"#,
            told("too long", Some("exceed_context_size_error"), Some("400")),
        ),
        (r#"{"error":"too long","error_type":"validation"}"#, told("too long", None, None)),
        (r#"{"detail":"Not Found"}"#, told("Not Found", None, None)),
        (
            r#"{"detail":[{"type":"missing","loc":["body","messages",0],"msg":"Field required","input":{}},
            {"loc":["body"],"msg":"b"},{"msg":"c"},{"msg":"d"}]}"#,
            told("body.messages.0: Field required; body: b; c", None, None),
        ),
    ];
    for (body, error) in cases {
        assert_eq!(error_of(400, body.as_bytes()), error, "{body}");
    }
}

#[test]
fn what_says_nothing_is_not_repeated() {
    for body in ["", "no", "<html>", "[]", "{}", r#"{"error":{}}"#, r#"{"error":null}"#, r#"{"detail":[]}"#] {
        assert_eq!(error_of(400, body.as_bytes()), None, "{body}");
    }
}

#[test]
fn only_what_is_wrong_with_the_request_is_for_the_client() {
    let body = br#"{"error":"no"}"#;
    for (status, is_told) in [(399, false), (400, true), (422, true), (499, true), (500, false)] {
        assert_eq!(error_of(status, body).is_some(), is_told, "{status}");
    }
}

#[test]
fn a_message_is_cut_and_in_one_line() {
    let body = serde_json::json!({"error": {"message": format!("a\n\u{2028}\u{7f}{}", "é".repeat(400))}});
    let error = error_of(400, body.to_string().as_bytes()).unwrap();
    assert_eq!(error.message, format!("a   {}", "é".repeat(296)));
}
