//! The page's steps, in its order, for one of its two fields.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use xtask::http::Answer;
use xtask::manifests::ingress_policy;
use xtask::poll;
use xtask::process::Process;
use xtask::site::{self, Client, NODE_PORT, NODE_V4, Site, VIP_PORT, VIP_V4};

use super::SOON;
use crate::run::{read, say};

/// The file the policy is in.
const POLICY: &str = "ingress-policy.yaml";

/// The page shows each step twice: with the packet's source, and with the original client address. With no proxy in front of the
/// gateway the two are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// `ipBlocks`, a network load balancer.
    IpBlocks,
    /// `remoteIpBlocks`.
    RemoteIpBlocks,
}

impl Variant {
    pub(super) const ALL: [Self; 2] = [Self::IpBlocks, Self::RemoteIpBlocks];

    /// The field of the policy.
    fn field(self) -> &'static str {
        match self {
            Self::IpBlocks => "ipBlocks",
            Self::RemoteIpBlocks => "remoteIpBlocks",
        }
    }

    /// The field of the log line, counted by commas: `directRemoteIP` or `remoteIP`.
    fn column(self) -> u8 {
        match self {
            Self::IpBlocks => 3,
            Self::RemoteIpBlocks => 4,
        }
    }
}

/// What a client should see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sees {
    Answer,
    Nothing,
}

impl Sees {
    fn is(self, answer: &Answer) -> bool {
        match self {
            Self::Answer => *answer == Answer::Status(200),
            Self::Nothing => answer.kept_away(),
        }
    }
}

/// One walk through the page.
pub(super) struct Walk<'a> {
    pub(super) site: &'a Site,
    pub(super) agent: &'a mut Process,
    pub(super) variant: Variant,
}

impl Walk<'_> {
    pub(super) fn run(&mut self) -> Result<()> {
        let field = self.variant.field();
        say(format_args!("\n======== {field} ========"));

        say("\n1. No policy: everybody is let in");
        self.both(Sees::Answer, Sees::Answer)?;

        say("\n2. ALLOW for others: nobody here is let in");
        self.apply("ALLOW", &["1.2.3.4", "5.6.7.0/24"])?;
        self.both(Sees::Nothing, Sees::Nothing)?;

        say("\n3. The own address, read from the agent's log as the page reads it from Envoy's");
        let client_ip = self.client_ip()?;

        say("\n4. The policy with that address added: client-a is let in, client-b is not");
        self.apply("ALLOW", &["1.2.3.4", "5.6.7.0/24", &client_ip])?;
        self.both(Sees::Answer, Sees::Nothing)?;

        say("\n5. DENY for that address: client-a is refused, client-b is let in");
        self.apply("DENY", &[&client_ip])?;
        self.both(Sees::Nothing, Sees::Answer)?;

        say(
            "\n6. Why? The log has the packet, the verdict, the reason and the rule, under Envoy's own policy id",
        );
        self.reason(&client_ip)?;

        say("\n7. The policy deleted: everybody is let in again");
        say(format_args!(
            "   $ kubectl delete authorizationpolicy ingress-policy -n istio-system   (here: rm {POLICY})"
        ));
        self.site.delete(POLICY)?;
        self.both(Sees::Answer, Sees::Answer)
    }

    /// Writes the policy where the agent reads, and shows what differs from step to step.
    fn apply(&self, action: &str, blocks: &[&str]) -> Result<()> {
        let text = ingress_policy(action, self.variant.field(), blocks);
        say(format_args!(
            "   $ kubectl apply -f -   (here: into the folder, as {POLICY})"
        ));
        for line in text.lines().skip_while(|line| !line.starts_with("spec")) {
            say(format_args!("     {line}"));
        }
        self.site.write(POLICY, &text)
    }

    /// What both clients see. Client a is asked last, so that the log's last lines are about it.
    fn both(&mut self, a: Sees, b: Sees) -> Result<()> {
        // At first the agent may not have seen the change; once it has, every way and every client has it.
        self.check(Client::A, a, VIP_V4, VIP_PORT)?;
        self.check(Client::B, b, VIP_V4, VIP_PORT)?;
        self.check(Client::A, a, NODE_V4, NODE_PORT)
    }

    fn check(&mut self, client: Client, sees: Sees, address: &str, port: u16) -> Result<()> {
        let to = site::destination(address, port)?;
        let answer = self.site.get_until(client, to, SOON, |answer| sees.is(answer));
        say(format_args!(
            "   {} $ curl http://{to}/headers   → {answer}",
            client.name()
        ));
        if !sees.is(&answer) {
            bail!(
                "{}: {} was to see {sees:?} at {to}, and saw: {answer}",
                self.variant.field(),
                client.name()
            );
        }
        Ok(())
    }

    /// The page's own pipeline, in a real shell, on the agent's log.
    fn client_ip(&mut self) -> Result<String> {
        let wanted = Client::A.address(site::destination(VIP_V4, VIP_PORT)?);
        self.last_line("about client-a", |line| line.contains(wanted))?;
        let pipeline = format!(
            "grep remoteIP \"$LOG\" | tail -1 | awk -F, '{{print ${}}}' | awk -F: '{{print $2}}' | sed 's/ //'",
            self.variant.column()
        );
        say(format_args!(
            "   $ CLIENT_IP=$({pipeline}) && echo \"$CLIENT_IP\""
        ));
        let mut shell = Command::new("sh");
        shell.args(["-c", &pipeline]).env("LOG", self.agent.log_path());
        let client_ip = read(&mut shell)
            .context("reading the client's address from the log")?
            .trim()
            .to_owned();
        say(format_args!("   {client_ip}"));
        if client_ip != wanted {
            bail!("the log says that the client is `{client_ip}`, and it is {wanted}");
        }
        Ok(client_ip)
    }

    /// The log line of client a's last packet names the rule that refused it.
    fn reason(&mut self, client_ip: &str) -> Result<()> {
        const RULE: &str = "ns[istio-system]-policy[ingress-policy]-rule[0]";
        let line = self.last_line("with the rule", |line| {
            line.contains(client_ip) && line.contains(RULE)
        })?;
        say(format_args!("   | {line}"));
        Ok(())
    }

    /// The last packet line, once it is as wanted. Lines are rate-limited: where it is not there, client a asks again.
    fn last_line(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let to = site::destination(VIP_V4, VIP_PORT)?;
        let last = || {
            let log = self.agent.log();
            let line = log.lines().rev().find(|line| line.contains("remoteIP"))?;
            wanted(line).then(|| line.to_owned())
        };
        let line = poll::every(Duration::from_secs(1), SOON, || {
            last().or_else(|| {
                let _ = self.site.get(Client::A, to);
                None
            })
        });
        line.with_context(|| format!("the log's last packet line is none {what}"))
    }
}
