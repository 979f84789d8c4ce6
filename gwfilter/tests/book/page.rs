//! What a page has its reader type, and what it says that prints. Pure, but for [`read`].

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

pub(crate) const FILES: &str = "quickstart-files.md";
pub(crate) const QUICKSTART: &str = "quickstart-cluster.md";
pub(crate) const WALK: &str = "walkthrough.md";
pub(crate) const COMMANDS: &str = "commands/README.md";

/// The pages that are run, and how the names of their steps begin.
pub(crate) const PAGES: [(&str, &str); 4] = [
    (FILES, "files-"),
    (QUICKSTART, "cluster-"),
    (WALK, "walk-"),
    (COMMANDS, "commands-"),
];

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) how: How,
    pub(crate) commands: String,
    /// What must appear: the number of each line in the page, and the line.
    pub(crate) output: Vec<(usize, String)>,
}

/// Who does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// The shell, as the page has it.
    Typed,
    /// The test, in its own way.
    Provided,
    /// Nobody.
    Shown,
}

/// Where the pages are.
pub(crate) fn folder() -> PathBuf {
    xtask::paths::root().join("docs/book/src")
}

/// The steps of a page, in their order.
pub(crate) fn read(page: &str) -> Result<Vec<Step>> {
    let path = folder().join(page);
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    steps(&text).with_context(|| format!("docs/book/src/{page}"))
}

/// The same of a page's text.
fn steps(text: &str) -> Result<Vec<Step>> {
    let mut lines = text.lines().zip(1..).peekable();
    let mut steps = Vec::new();
    while let Some((line, number)) = lines.next() {
        let Some(words) = line
            .strip_prefix("<!-- step: ")
            .and_then(|rest| rest.strip_suffix(" -->"))
        else {
            if line == "```sh" || line.contains("<!-- step") {
                bail!(
                    "line {number}: `{line}`: a block of commands wants `<!-- step: NAME -->` in the line before it"
                );
            }
            continue;
        };
        let (name, how) = match words.split_once(' ').unwrap_or((words, "")) {
            (name, "") => (name, How::Typed),
            (name, "provided") => (name, How::Provided),
            (name, "show") => (name, How::Shown),
            (_, other) => bail!("line {number}: `{other}` is no word of a step"),
        };
        let Some(commands) = block(&mut lines, "```sh") else {
            bail!("line {number}: no block of commands after step {name}");
        };
        while lines.next_if(|(line, _)| line.is_empty()).is_some() {}
        let mut output = block(&mut lines, "```output").unwrap_or_default();
        output.retain(|(_, line)| !line.trim().is_empty());
        steps.push(Step {
            name: name.to_owned(),
            how,
            commands: commands
                .into_iter()
                .map(|(_, line)| line + "\n")
                .collect::<String>(),
            output,
        });
    }
    Ok(steps)
}

/// The lines of the block that begins here with `fence`, if one does.
fn block<'a>(
    lines: &mut std::iter::Peekable<impl Iterator<Item = (&'a str, usize)>>,
    fence: &str,
) -> Option<Vec<(usize, String)>> {
    lines.next_if(|(line, _)| *line == fence)?;
    let within = lines.by_ref().map(|(line, number)| (number, line.to_owned()));
    Some(within.take_while(|(_, line)| line != "```").collect())
}

impl Step {
    /// The first line that is wanted and was not printed, with its number in the page.
    pub(crate) fn lacks<'a>(&'a self, printed: &[String]) -> Option<&'a (usize, String)> {
        let mut printed = printed.iter().filter(|line| !line.trim().is_empty());
        self.output
            .iter()
            .find(|(_, wanted)| !printed.any(|line| is(wanted, line)))
    }
}

/// Whether a line is as wanted: `…` is any text.
fn is(wanted: &str, line: &str) -> bool {
    let mut pieces = wanted.split('…');
    let Some(mut rest) = line.strip_prefix(pieces.next().unwrap_or_default()) else {
        return false;
    };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else {
        return rest.is_empty();
    };
    for piece in pieces {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[test]
fn lines_then_alike_but_for_what_is_left_open() {
    for (wanted, line, alike) in [
        ("200", "200", true),
        ("200", "2000", false),
        ("… INFO x", "12:00 INFO x", true),
        ("… INFO x", "INFO x", false),
        ("a … b … c", "a 1 b 2 c", true),
        ("a … b … c", "a 1 c 2 b", false),
        ("a…a", "a", false),
        ("…", "anything", true),
        ("curl: (28) …", "curl: (28) timed out", true),
    ] {
        assert_eq!(is(wanted, line), alike, "{wanted} | {line}");
    }
}

#[test]
fn page_then_its_steps_and_the_first_line_that_was_not_printed() {
    let page = "\
Text.

<!-- step: x-one -->
```sh
echo a
echo b
```

```output
a

b…
```

<!-- step: x-two provided -->
```sh
true
```
Text, and no output.

```output
of nobody
```

<!-- step: x-three show -->
```sh
false
```
";
    let steps = steps(page).unwrap();
    let (names, hows): (Vec<_>, Vec<_>) = steps.iter().map(|step| (step.name.as_str(), step.how)).unzip();
    assert_eq!(names, ["x-one", "x-two", "x-three"]);
    assert_eq!(hows, [How::Typed, How::Provided, How::Shown]);
    assert_eq!(steps[0].commands, "echo a\necho b\n");
    assert!(steps[1].output.is_empty());
    let lacks = |printed: &str| {
        let lines: Vec<String> = printed.lines().map(ToOwned::to_owned).collect();
        steps[0].lacks(&lines).map(|(number, _)| *number)
    };
    assert_eq!(lacks("x\na\ny\n\nb and more\n"), None);
    assert_eq!(lacks("b\na\n"), Some(12), "the order counts");
    assert_eq!(lacks(""), Some(10));
    for wrong in [
        "```sh\necho\n```\n",
        "<!-- step: x -->\ntext\n",
        "<!-- step: x often -->\n```sh\n```\n",
    ] {
        assert!(crate::page::steps(wrong).is_err(), "{wrong}");
    }
}
