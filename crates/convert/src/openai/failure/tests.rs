use super::*;

fn told(message: &str, kind: Option<&str>, code: Option<&str>) -> Option<ErrorText> {
    let [kind, code] = [kind, code].map(|text| text.map(str::to_owned));
    Some(ErrorText { message: message.into(), kind, param: None, code })
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
        (r#"{"error":["too long",{"message":"b"}]}"#, told("too long", None, None)),
        (r#"{"code":404,"type":"NotFound","message":"no"}"#, told("no", Some("NotFound"), Some("404"))),
        (r#"{"detail":"Not Found"}"#, told("Not Found", None, None)),
        (r#"{"detail":{"message":"no"}}"#, told("no", None, None)),
        (
            r#"{"detail":[{"type":"missing","loc":["body","messages",0],"msg":"Field required","input":{}},
            {"loc":["body"],"msg":"b"},{"msg":"c"},{"msg":"d"}]}"#,
            told("body.messages.0: Field required; body: b; c", None, None),
        ),
    ];
    for (body, error) in cases {
        assert_eq!(error_of(body.as_bytes()), error, "{body}");
    }
}

#[test]
fn what_says_nothing_is_not_repeated() {
    for body in ["", "no", "<html>", "[]", "{}", r#"{"error":{}}"#, r#"{"error":17}"#, r#"{"detail":[]}"#] {
        assert_eq!(error_of(body.as_bytes()), None, "{body}");
    }
}

#[test]
fn a_member_that_an_error_is_about_is_read() {
    let body = br#"{"error":{"message":"no","param":"messages","code":"too_long"}}"#;
    let error = error_of(body).unwrap();
    assert_eq!((error.param.as_deref(), error.code.as_deref()), (Some("messages"), Some("too_long")));
}

#[test]
fn a_message_is_cut_and_in_one_line() {
    let body = serde_json::json!({"error": {"message": format!(" a\n\u{2028}\u{7f}{}", "é".repeat(400))}});
    let error = error_of(body.to_string().as_bytes()).unwrap();
    assert_eq!(error.message, format!("a   {}", "é".repeat(296)));
}
