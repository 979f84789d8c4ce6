use proptest::prelude::*;
use serde_json::json;

use super::*;

fn values(text: &str) -> Vec<Value> {
    parse(text.as_bytes())
        .unwrap()
        .into_iter()
        .map(|d| d.value)
        .collect()
}

#[test]
fn texts_that_mean_the_same_then_the_same_documents() {
    let want = vec![json!({"a": {"b": "c"}}), json!({"d": 1})];
    let cases = [
        ("plain", "a:\n  b: c\n---\nd: 1\n"),
        ("leading separator", "---\na:\n  b: c\n---\nd: 1\n"),
        ("byte-order mark", "\u{feff}a:\n  b: c\n---\nd: 1\n"),
        ("CRLF", "a:\r\n  b: c\r\n---\r\nd: 1\r\n"),
        (
            "byte-order mark and CRLF",
            "\u{feff}a:\r\n  b: c\r\n---\r\nd: 1\r\n",
        ),
        (
            "empty documents",
            "---\n---\n# nothing\n---\na:\n  b: c\n---\n---\nd: 1\n---\n",
        ),
        (
            "JSON documents in YAML",
            "{\"a\": {\"b\": \"c\"}}\n---\n{\"d\": 1}\n",
        ),
        (
            "JSON with tabs, one after the other",
            "{\n\t\"a\": {\"b\":\t\"c\"}\n}\n{\"d\": 1}",
        ),
        ("anchors and a merge key", "x: &x {b: c}\na:\n  <<: *x\n"),
    ];
    for (name, text) in cases {
        let found = values(text);
        if name.starts_with("anchors") {
            assert_eq!(found, [json!({"x": {"b": "c"}, "a": {"b": "c"}})], "{name}");
        } else {
            assert_eq!(found, want, "{name}");
        }
    }
    assert_eq!(values(""), Vec::<Value>::new());
    assert_eq!(values("{\"a\": \"\\ud83d\\ude00\\/\"}"), [json!({"a": "😀/"})]);
}

#[test]
fn merge_keys_then_own_entries_win_and_the_first_source_before_the_second() {
    let text = "p: &p {a: 1, b: 1}\nq: &q {b: 2, c: 2}\nr:\n  <<: [*p, *q]\n  a: 0\n";
    assert_eq!(values(text)[0]["r"], json!({"a": 0, "b": 1, "c": 2}));
}

#[test]
fn documents_keep_their_number_in_the_file() {
    let numbers: Vec<_> = parse(b"---\n---\na: 1\n---\nb: 2\n")
        .unwrap()
        .into_iter()
        .map(|d| d.number)
        .collect();
    assert_eq!(numbers, [2, 3]);
}

#[test]
fn broken_texts_then_an_error_that_says_where() {
    let cases: &[(&str, &[u8], &str)] = &[
        (
            "syntax",
            b"a: 1\n---\nb: [1\n---\nc: 2\n",
            "document 2, line 4 column 1",
        ),
        ("tab", b"a:\n\tb: 1\n", "document 1, line 2 column 1"),
        (
            "duplicate key",
            b"a: 1\nb: 2\na: 3\n",
            "document 1, line 1 column 1: the key \"a\" is there twice",
        ),
        ("duplicate key in JSON", b"{\"a\": 1, \"a\": 2}", "is there twice"),
        ("not UTF-8", b"a: \xff\n", "not UTF-8 (first at byte 3)"),
        (
            "scalar",
            b"a: 1\n---\nhello\n",
            "document 2 is a string, not an object",
        ),
        ("list", b"- a\n- b\n", "document 1 is a list, not an object"),
        ("JSON list", b"[{\"a\": 1}]", "document 1 is a list"),
        ("tag", b"a: !x 1\n", "YAML tags"),
        (
            "unknown anchor",
            b"a: *nowhere\n",
            "document 1, line 1 column 4: unknown anchor",
        ),
        ("merge of a scalar", b"a:\n  <<: 1\n", "merge key"),
        ("key that is a list", b"? [a]\n: 1\n", "a key must be a string"),
    ];
    for (name, text, want) in cases {
        let error = parse(text).expect_err(name).to_string();
        assert!(error.contains(want), "{name}: {error}");
    }
}

#[test]
fn aliases_that_explode_then_an_error_and_no_memory() {
    // Nine levels of ten: a billion strings.
    let mut laughs = String::from("a0: &a0 [lol]\n");
    for i in 1..10 {
        let last = i - 1;
        laughs += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{last}"); 10].join(", "));
    }
    assert!(parse(laughs.as_bytes()).is_err());

    // One level, quadratic: within the library's own bound on jumps.
    let long = "x".repeat(100_000);
    let text = format!("a: &a {long}\nb: [{}]\n", vec!["*a"; 10_000].join(", "));
    let error = parse(text.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("write it out"), "{error}");

    // Deep nesting ends in an error, not on the end of the stack.
    assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    assert!(parse(("{\"a\":".repeat(100_000)).as_bytes()).is_err());
    assert!(parse("- ".repeat(100_000).as_bytes()).is_err());
    assert!(parse("? ".repeat(100_000).as_bytes()).is_err());

    // Ordinary use stays possible.
    let text = format!("a: &a {{k: v}}\nb: [{}]\n", vec!["*a"; 1000].join(", "));
    assert_eq!(values(&text)[0]["b"].as_array().unwrap().len(), 1000);
}

#[test]
fn one_document_where_one_is_expected() {
    assert_eq!(parse_one("").unwrap(), Value::Null);
    assert_eq!(parse_one("{}\n").unwrap(), json!({}));
    assert!(
        parse_one("a: 1\n---\nb: 2\n")
            .unwrap_err()
            .to_string()
            .contains("one document")
    );
}

proptest! {
    #[test]
    fn any_bytes_then_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn any_yaml_like_text_then_no_panic_and_an_end(text in "[-a-c:{}\\[\\]&*!|>'\"<#,? \n\t0-9]{0,120}") {
        let _ = parse(text.as_bytes());
    }
}
