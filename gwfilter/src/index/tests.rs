use super::*;
use crate::object::Kind;

const A: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: n}\nspec: {action: DENY}\n---\n";
const A2: &str = "apiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: n}\nspec: {action: ALLOW}\n---\n";
const B: &str =
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: b, namespace: n}\n---\n";
/// `a`, refused.
const BAD: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: n, labels: {x: 1}}\n---\n";

fn names(snapshot: &Snapshot) -> String {
    let names: Vec<_> = snapshot
        .policies
        .iter()
        .map(|p| {
            format!(
                "{}:{}",
                p.meta.name,
                p.spec.get("action").and_then(|a| a.as_str()).unwrap_or("-")
            )
        })
        .collect();
    names.join(" ")
}

fn codes(snapshot: &Snapshot) -> Vec<&'static str> {
    snapshot.diagnostics.iter().map(|d| d.code).collect()
}

/// Loads texts into sources one after the other and looks at the end: policies, complete, codes.
fn run(steps: &[(&str, &str)]) -> (String, bool, Vec<&'static str>) {
    let mut index = Index::new();
    for (source, text) in steps {
        let _ = index.load(source, text.as_bytes());
    }
    let snapshot = index.snapshot();
    (names(&snapshot), snapshot.complete, codes(&snapshot))
}

#[test]
fn sources_then_what_counts() {
    let broken = "a: [";
    let half = format!("{B}---\n{broken}");
    type Case<'a> = (
        &'a str,
        Vec<(&'a str, &'a str)>,
        (&'a str, bool, Vec<&'static str>),
    );
    let both = format!("{A}{B}");
    let twice = format!("{A}{A2}{A}");
    let same = format!("{A}{A}");
    let cases: Vec<Case<'_>> = vec![
        ("one", vec![("f", &both)], ("a:DENY b:-", true, vec![])),
        ("replaced", vec![("f", &both), ("f", B)], ("b:-", true, vec![])),
        (
            "two files",
            vec![("f", A), ("g", B)],
            ("a:DENY b:-", true, vec![]),
        ),
        (
            "broken, never read",
            vec![("f", broken), ("g", B)],
            ("b:-", false, vec!["unreadable-input"]),
        ),
        (
            "one broken document spoils the file",
            vec![("f", &half)],
            ("", false, vec!["unreadable-input"]),
        ),
        (
            "broken later",
            vec![("f", A), ("f", broken)],
            ("a:DENY", true, vec!["unreadable-input"]),
        ),
        ("mended", vec![("f", broken), ("f", A)], ("a:DENY", true, vec![])),
        (
            "refused, never good",
            vec![("f", BAD)],
            ("", false, vec!["unreadable-object"]),
        ),
        (
            "refused later: the last good one",
            vec![("f", A), ("f", BAD)],
            ("a:DENY", true, vec!["unreadable-object"]),
        ),
        (
            "refused twice",
            vec![("f", A), ("f", BAD), ("f", BAD)],
            ("a:DENY", true, vec!["unreadable-object"]),
        ),
        (
            "refused, then gone",
            vec![("f", A), ("f", BAD), ("f", B)],
            ("b:-", true, vec![]),
        ),
        (
            "stated twice alike",
            vec![("f", A), ("g", A)],
            ("a:DENY", true, vec![]),
        ),
        (
            "stated twice alike in a file",
            vec![("f", &same)],
            ("a:DENY", true, vec![]),
        ),
        (
            "stated twice",
            vec![("f", A), ("g", A2)],
            ("", false, vec!["stated-twice"]),
        ),
        (
            "stated twice in a file",
            vec![("f", &twice)],
            ("", false, vec!["stated-twice"]),
        ),
        (
            "once again",
            vec![("f", A), ("g", A2), ("g", B)],
            ("a:DENY b:-", true, vec![]),
        ),
    ];
    for (name, steps, (policies, complete, codes)) in cases {
        assert_eq!(run(&steps), (policies.to_owned(), complete, codes), "{name}");
    }
}

#[test]
fn a_watch_then_one_object_at_a_time() {
    let object = |text: &str| {
        let document = manifest::parse(text.as_bytes()).unwrap().remove(0);
        object::decode(&document.value)
    };
    let mut index = Index::new();
    let apply = |index: &mut Index, text: &str| {
        let (mut objects, diagnostics) = object(text);
        index.apply("watch", objects.remove(0), diagnostics);
    };
    apply(&mut index, A);
    apply(&mut index, B);
    assert_eq!(names(&index.snapshot()), "a:DENY b:-");
    apply(&mut index, A2);
    assert_eq!(names(&index.snapshot()), "a:ALLOW b:-");
    apply(&mut index, BAD);
    assert_eq!(
        (names(&index.snapshot()), codes(&index.snapshot())),
        ("a:ALLOW b:-".into(), vec!["unreadable-object"])
    );
    apply(&mut index, A);
    assert_eq!(
        (names(&index.snapshot()), codes(&index.snapshot())),
        ("a:DENY b:-".into(), vec![])
    );
    let key = Key {
        kind: Kind::AuthorizationPolicy,
        namespace: "n".into(),
        name: "a".into(),
    };
    index.delete("watch", &key);
    assert_eq!(names(&index.snapshot()), "b:-");
    apply(&mut index, BAD);
    assert!(!index.snapshot().complete);
    index.delete("watch", &key);
    assert!(index.snapshot().complete);
    index.remove("watch");
    assert_eq!(index.snapshot(), Snapshot::default());
}

#[test]
fn what_a_watch_repeats_then_no_news_and_all_else_is() {
    let decoded = |text: &str| {
        let document = manifest::parse(text.as_bytes()).unwrap().remove(0);
        let (mut objects, diagnostics) = object::decode(&document.value);
        (objects.remove(0), diagnostics)
    };
    let mut index = Index::new();
    let mut apply = |text: &str| {
        let (object, diagnostics) = decoded(text);
        index.apply("watch", object, diagnostics)
    };
    // A refused one keeps the last good version, and is a finding that its repetition has to end.
    let news = [A, A, A2, BAD, BAD, A2, A2].map(&mut apply);
    assert_eq!(news, [true, false, true, true, true, true, false]);
    let key = Key {
        kind: Kind::AuthorizationPolicy,
        namespace: "n".into(),
        name: "a".into(),
    };
    assert!(index.delete("watch", &key));
    assert!(!index.delete("watch", &key));

    index.unreadable("watch", "403");
    assert_eq!(codes(&index.snapshot()), ["unreadable-input"]);
    assert!(index.readable("watch"));
    assert_eq!(codes(&index.snapshot()).len(), 0);
    assert!(!index.readable("watch"));
}

#[test]
fn snapshot_then_in_order_of_identity_whatever_the_sources() {
    let mut one = Index::new();
    one.load("a", B.as_bytes()).unwrap();
    one.load("b", A.as_bytes()).unwrap();
    let mut two = Index::new();
    two.load("x", format!("{A}{B}").as_bytes()).unwrap();
    assert_eq!(one.snapshot(), two.snapshot());
}
