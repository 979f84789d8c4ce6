//! What programs may cost the verifier, and of the stack: `gwfilter-ebpf/budget.txt`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

/// What a program costs, or may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Instructions that the verifier walks.
    pub(crate) instructions: u64,
    /// Bytes of stack: of the program's own function, and of the largest one beside it. A chain of calls takes no less.
    pub(crate) stack: u64,
}

impl Cost {
    /// From what the kernel tells; its `stack` is a figure a function, the program's own first, joined by `+`.
    pub(crate) fn told(instructions: u64, stack: &str) -> Result<Self> {
        // Newer kernels add the longest chain: `16+288 max 304`.
        let functions = stack.split_whitespace().next().unwrap_or_default().split('+');
        let functions = functions.map(str::parse).collect::<Result<Vec<u64>, _>>();
        let functions = functions.with_context(|| format!("stack {stack:?}"))?;
        let (own, others) = functions.split_first().context("no function")?;
        Ok(Self {
            instructions,
            stack: own + others.iter().max().unwrap_or(&0),
        })
    }
}

/// What each program may cost.
pub(crate) struct Budget(BTreeMap<String, Cost>);

impl Budget {
    /// Lines `program instructions stack`; those that begin with `#` are for people.
    pub(crate) fn read(text: &str) -> Result<Self> {
        let mut budget = BTreeMap::new();
        for line in text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
        {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [program, instructions, stack] = words[..] else {
                bail!("no line of a budget: {line:?}");
            };
            let cost = Cost {
                instructions: instructions.parse().context(line.to_owned())?,
                stack: stack.parse().context(line.to_owned())?,
            };
            if budget.insert(program.to_owned(), cost).is_some() {
                bail!("{program} has two budgets");
            }
        }
        Ok(Self(budget))
    }

    /// What is too much of what a program costs.
    pub(crate) fn exceeded(&self, program: &str, cost: Cost) -> Vec<String> {
        let Some(most) = self.0.get(program) else {
            return vec![format!("{program} has no budget")];
        };
        [
            ("instructions", cost.instructions, most.instructions),
            ("bytes of stack", cost.stack, most.stack),
        ]
        .into_iter()
        .filter(|(_, costs, most)| costs > most)
        .map(|(what, costs, most)| format!("{program}: {costs} {what}, of {most}"))
        .collect()
    }
}

#[test]
fn figures_of_the_kernel_then_instructions_and_the_stack_that_a_chain_takes_at_least() {
    for (told, stack) in [
        ("248", 248),
        ("256 max 256", 256),
        ("16+280+288+40+0+32", 304),
        ("16+280+288 max 304", 304),
    ] {
        assert_eq!(
            Cost::told(7, told).unwrap(),
            Cost {
                instructions: 7,
                stack
            },
            "{told}"
        );
    }
    for told in ["", "+", "max 304", "16+x"] {
        assert!(Cost::told(7, told).is_err(), "{told}");
    }
}

#[test]
fn more_than_the_budget_of_either_then_named_and_no_less() {
    let budget = Budget::read("# for people\n\na 100 256\nb 5 8\n").unwrap();
    let exceeded = |program, instructions, stack| budget.exceeded(program, Cost { instructions, stack });
    assert!(exceeded("a", 100, 256).is_empty());
    assert_eq!(exceeded("a", 101, 256), ["a: 101 instructions, of 100"]);
    assert_eq!(exceeded("a", 100, 257), ["a: 257 bytes of stack, of 256"]);
    assert_eq!(exceeded("b", 6, 9).len(), 2);
    assert_eq!(exceeded("c", 0, 0), ["c has no budget"]);
    for wrong in ["a 100", "a 100 256 1", "a x 256", "a 100 256\na 100 256"] {
        assert!(Budget::read(wrong).is_err(), "{wrong}");
    }
}
