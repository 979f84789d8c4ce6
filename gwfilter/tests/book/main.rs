//! The commands of the book's quickstarts and of its walk-through, typed by a machine: each block that the page marks as a step is run,
//! and what the page says it prints must be there. `docs/book/README.md` has the convention. Needs root and what
//! `cargo xtask setup` installs, and fails without.

mod lab;
mod page;
mod shell;

use std::collections::BTreeMap;
use std::fs;

use xtask::netns::Namespace;

use lab::Lab;
use page::{COMMANDS, FILES, PAGES, QUICKSTART, WALK};
use shell::{Desk, Shell};

/// Types a page that needs a machine and no cluster. The binary is there.
#[expect(clippy::expect_used, clippy::panic, reason = "test helper")]
fn alone(page: &str) {
    let machine = Namespace::new("reader").expect("a machine; this test needs root");
    let desk = Desk::new().expect("a folder with what the page reads");
    desk.cover(&machine, &["/run", "/var/lib"])
        .expect("nothing of this machine's is touched");
    let mut shell = Shell::start(&machine, &desk, &[]).expect("a shell");
    shell
        .follow(page, &mut |_| Ok(String::new()))
        .unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn quickstart_from_files_typed_then_each_step_prints_what_the_page_says() {
    alone(FILES);
}

#[test]
fn commands_typed_then_each_prints_what_the_page_says() {
    alone(COMMANDS);
}

#[test]
fn quickstart_of_a_cluster_and_walkthrough_typed_then_each_step_prints_what_the_page_says() {
    let mut lab = Lab::new().expect("a cluster; this test needs root, and `cargo xtask setup`");
    for page in [QUICKSTART, WALK] {
        lab.follow(page).unwrap_or_else(|error| panic!("{error:#}"));
    }
}

#[test]
fn pages_then_their_steps_have_names_of_their_own_that_begin_alike() {
    let mut seen = BTreeMap::new();
    for (page, prefix) in PAGES {
        let steps = page::read(page).unwrap_or_else(|error| panic!("{error:#}"));
        assert!(!steps.is_empty(), "{page}");
        for step in steps {
            assert!(step.name.starts_with(prefix), "{page}: {}", step.name);
            let before = seen.insert(step.name.clone(), page);
            assert_eq!(before, None, "{} twice", step.name);
        }
    }
    // A page that gets steps has to be among those that are run.
    let folder = page::folder();
    for entry in fs::read_dir(&folder).expect("the book") {
        let path = entry.expect("a page").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_file() && fs::read_to_string(&path).expect("text").contains("<!-- step:") {
            assert!(PAGES.iter().any(|(page, _)| *page == name), "{name} is not run");
        }
    }
}
