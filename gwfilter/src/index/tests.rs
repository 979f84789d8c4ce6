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
                p.spec
                    .value()
                    .unwrap()
                    .get("action")
                    .and_then(|a| a.as_str())
                    .unwrap_or("-")
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
    (
        names(&snapshot),
        snapshot.knows_policies_of("n", Some("root")),
        codes(&snapshot),
    )
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
        ("b:-".into(), vec!["unreadable-object"]),
        "the cluster runs the new version: the old one is not in force any more"
    );
    assert!(!index.snapshot().knows_policies_of("n", Some("root")));
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
    assert!(!index.snapshot().knows_policies_of("n", Some("root")));
    index.delete("watch", &key);
    assert!(index.snapshot().knows_policies_of("n", Some("root")));
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
    // A refused one is lost, and a finding that its repetition has to end.
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

#[test]
fn a_list_of_a_watch_with_an_object_that_cannot_be_read_then_it_is_lost_as_one_of_a_file_is_not() {
    let decoded = |text: &str| {
        let documents = manifest::parse(text.as_bytes()).unwrap();
        let all = documents.iter().map(|document| object::decode(&document.value));
        all.fold(
            (Vec::new(), Vec::new()),
            |(mut objects, mut found), (more, news)| {
                objects.extend(more);
                found.extend(news);
                (objects, found)
            },
        )
    };
    for (watched, wanted) in [(true, "b:-"), (false, "a:DENY b:-")] {
        let mut index = Index::new();
        if watched {
            index.declare("s", Subject::Kind(Kind::AuthorizationPolicy));
        }
        for text in [format!("{A}{B}"), format!("{BAD}{B}")] {
            let (objects, found) = decoded(&text);
            index.reset("s", objects, found);
        }
        let snapshot = index.snapshot();
        assert_eq!(
            (names(&snapshot).as_str(), snapshot.lost.len()),
            (wanted, usize::from(watched))
        );
        assert_eq!(codes(&snapshot), ["unreadable-object"]);
    }
}

#[test]
fn a_lost_policy_then_it_may_mean_its_own_namespace_and_all_where_it_is_the_root() {
    let snapshot = |namespace: &str| {
        let mut index = Index::new();
        index
            .load(
                "f",
                BAD.replace("namespace: n", &format!("namespace: {namespace}"))
                    .as_bytes(),
            )
            .unwrap();
        index.snapshot()
    };
    for (namespace, here, elsewhere, unknown_root) in [
        ("n", false, true, false),
        ("root", false, false, false),
        ("[]", false, false, false),
    ] {
        let snapshot = snapshot(namespace);
        let known = [
            snapshot.knows_policies_of("n", Some("root")),
            snapshot.knows_policies_of("m", Some("root")),
            snapshot.knows_policies_of("m", None),
        ];
        assert_eq!(known, [here, elsewhere, unknown_root], "{namespace}");
    }
}
