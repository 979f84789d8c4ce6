//! Real load balancers that write PROXY headers: haproxy and nginx, as Debian ships them.
//!
//! Both are configured to pass bytes on as they come (TLS too) and to give up at once when the gateway closes, so that a refusal
//! shows at the client as it happens.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::certificate::{self, Certificate};
use crate::netns::Namespace;
use crate::poll;
use crate::process::Process;

/// How long one may take to start.
const START: Duration = Duration::from_secs(30);
/// Time between two health checks, in milliseconds.
const CHECK_MS: u32 = 200;
/// The file with haproxy's key and certificate.
const BOTH: &str = "both.pem";

/// What a balancer writes before the client's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sends {
    /// Nothing.
    Nothing,
    /// The line of version 1.
    V1,
    /// The bytes of version 2.
    V2,
    /// Version 2 with a unique id and a checksum behind the addresses.
    V2Tlvs,
    /// Version 2 with all that haproxy can tell of a TLS connection that it ends itself: version, cipher, signature, key and name of the
    /// client's certificate, the server name that the client asked for, and a unique id and a checksum. Clients have to speak TLS.
    V2Ssl,
    /// No header, but an entry of `X-Forwarded-For` in each request (HTTP, not TCP).
    ForwardedFor,
}

impl Sends {
    /// All that write a header before the bytes as they come.
    pub const HEADERS: [Self; 3] = [Self::V1, Self::V2, Self::V2Tlvs];
}

/// How a balancer asks whether the gateway is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// It does not.
    Never,
    /// A connection that begins with a header of its own (LOCAL in version 2, UNKNOWN in version 1) and says nothing more.
    Header,
    /// A connection without a byte.
    Bare,
}

/// One way through a balancer.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Where clients come to.
    pub at: SocketAddr,
    /// The gateway.
    pub to: SocketAddr,
    /// What is written first.
    pub sends: Sends,
    /// How the gateway's health is asked for.
    pub check: Check,
}

/// A running balancer; ended when dropped.
#[derive(Debug)]
pub struct Balancer {
    process: Process,
    certificate: Option<Certificate>,
    _files: TempDir,
}

impl Balancer {
    /// Starts haproxy in `namespace`.
    ///
    /// # Errors
    /// If it is not installed, or refuses its configuration.
    pub fn haproxy(namespace: &Namespace, ways: &[Way]) -> Result<Self> {
        let files = tempfile::tempdir().context("a folder for haproxy's configuration")?;
        let path = files.path().join("haproxy.cfg");
        let mut pair = None;
        if ways.iter().any(|way| way.sends == Sends::V2Ssl) {
            let made = Certificate::make(files.path())?;
            fs::write(files.path().join(BOTH), made.both()?).context("writing haproxy's certificate")?;
            pair = Some(made);
        }
        fs::write(&path, haproxy_config(ways, files.path()))
            .with_context(|| format!("writing {}", path.display()))?;
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f"]).arg(&path);
        let process = Process::spawn(namespace, "haproxy", command)?;
        Self::ready(namespace, process, files, pair, ways)
    }

    /// Starts nginx in `namespace`. It writes headers of version 1 and makes no health checks of its own.
    ///
    /// # Errors
    /// If it is not installed, is asked for what it cannot do, or refuses its configuration.
    pub fn nginx(namespace: &Namespace, ways: &[Way]) -> Result<Self> {
        let files = tempfile::tempdir().context("a folder for nginx's configuration")?;
        let path = files.path().join("nginx.conf");
        fs::write(&path, nginx_config(ways)?).with_context(|| format!("writing {}", path.display()))?;
        let mut command = Command::new("nginx");
        command
            .args(["-e", "stderr", "-c"])
            .arg(&path)
            .arg("-p")
            .arg(files.path());
        let process = Process::spawn(namespace, "nginx", command)?;
        Self::ready(namespace, process, files, None, ways)
    }

    fn ready(
        namespace: &Namespace,
        mut process: Process,
        files: TempDir,
        certificate: Option<Certificate>,
        ways: &[Way],
    ) -> Result<Self> {
        for way in ways {
            let serves = namespace.enter(|| {
                poll::until(START, || {
                    let answers = TcpStream::connect_timeout(&way.at, Duration::from_secs(1)).is_ok();
                    (answers || process.status().is_some()).then_some(answers)
                })
            })?;
            if serves != Some(true) {
                bail!("the balancer does not serve {}:\n{}", way.at, process.tail());
            }
        }
        Ok(Self {
            process,
            certificate,
            _files: files,
        })
    }

    /// What a client may show, and must, for the balancer to tell its name; only of a way with [`Sends::V2Ssl`].
    #[must_use]
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// All it said so far. haproxy says `is DOWN` of a gateway that fails its checks.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }
}

fn haproxy_config(ways: &[Way], files: &Path) -> String {
    let mut text = "\
global
  log stdout format raw local0
  maxconn 4000
defaults
  mode tcp
  log global
  option tcplog
  retries 0
  timeout connect 5s
  timeout client 60s
  timeout server 60s
"
    .to_owned();
    for (i, way) in ways.iter().enumerate() {
        let sends = match way.sends {
            Sends::Nothing | Sends::ForwardedFor => "",
            Sends::V1 => " send-proxy",
            Sends::V2 => " send-proxy-v2",
            Sends::V2Tlvs => " send-proxy-v2 proxy-v2-options unique-id,crc32c",
            Sends::V2Ssl => {
                " send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,unique-id,crc32c"
            }
        };
        let tls = match way.sends {
            Sends::V2Ssl => format!(
                " ssl crt {} ca-file {} verify optional",
                files.join(BOTH).display(),
                files.join(certificate::FILE).display(),
            ),
            Sends::Nothing | Sends::V1 | Sends::V2 | Sends::V2Tlvs | Sends::ForwardedFor => String::new(),
        };
        let mode = match way.sends {
            // A connection of its own for each client, as Envoy sees it elsewhere.
            Sends::ForwardedFor => "  mode http\n  option httplog\n  option forwardfor\n  http-reuse never\n",
            _ => "",
        };
        let check = match way.check {
            Check::Never => String::new(),
            // `check-send-proxy` is what makes a check with a port of its own begin with a header.
            Check::Header => format!(" check inter {CHECK_MS}ms fall 1 rise 1 check-send-proxy"),
            Check::Bare => format!(" check inter {CHECK_MS}ms fall 1 rise 1 port {}", way.to.port()),
        };
        let _ = write!(
            text,
            "\
listen way-{i}
  bind {at}{tls}
{mode}  unique-id-format %[uuid()]
  server gateway-{i} {to}{sends}{check}
",
            at = way.at,
            to = way.to,
        );
    }
    text
}

fn nginx_config(ways: &[Way]) -> Result<String> {
    let mut text = "\
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
user root;
worker_processes 1;
pid nginx.pid;
events {}
stream {
"
    .to_owned();
    for way in ways {
        let sends = match way.sends {
            Sends::Nothing => "off",
            Sends::V1 => "on",
            Sends::V2 | Sends::V2Tlvs | Sends::V2Ssl => bail!("nginx writes headers of version 1 only"),
            Sends::ForwardedFor => bail!("nginx is asked for streams here"),
        };
        if way.check != Check::Never {
            bail!("nginx makes no health checks");
        }
        let _ = writeln!(
            text,
            "  server {{ listen {}; proxy_pass {}; proxy_protocol {sends}; }}",
            way.at, way.to
        );
    }
    text.push_str("}\n");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(sends: Sends, check: Check) -> Way {
        Way {
            at: "203.0.113.10:8001".parse().unwrap(),
            to: "[2001:db8::1]:80".parse().unwrap(),
            sends,
            check,
        }
    }

    #[test]
    fn haproxy_is_told_what_to_write_and_how_to_check() {
        for (sends, check, line) in [
            (
                Sends::Nothing,
                Check::Never,
                "server gateway-0 [2001:db8::1]:80\n",
            ),
            (
                Sends::V1,
                Check::Bare,
                "send-proxy check inter 200ms fall 1 rise 1 port 80\n",
            ),
            (
                Sends::V2,
                Check::Header,
                "send-proxy-v2 check inter 200ms fall 1 rise 1 check-send-proxy\n",
            ),
            (Sends::V2Tlvs, Check::Never, "proxy-v2-options unique-id,crc32c\n"),
            (
                Sends::V2Ssl,
                Check::Never,
                "bind 203.0.113.10:8001 ssl crt /x/both.pem ca-file /x/certificate.pem verify optional\n",
            ),
        ] {
            let text = haproxy_config(&[way(sends, check)], Path::new("/x"));
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn nginx_is_not_asked_for_what_it_cannot_do() {
        let text = nginx_config(&[way(Sends::V1, Check::Never)]).unwrap();
        assert!(
            text.contains("proxy_pass [2001:db8::1]:80; proxy_protocol on;"),
            "{text}"
        );
        assert!(nginx_config(&[way(Sends::V2, Check::Never)]).is_err());
        assert!(nginx_config(&[way(Sends::V1, Check::Bare)]).is_err());
    }
}
