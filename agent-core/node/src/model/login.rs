//! `model login`: a user name and a secret for a registry. The secret comes from a prompt or from
//! stdin, never from an argument, and is never printed.

use std::io::{IsTerminal as _, Read as _};

use agent_api::{endpoint::PostRegistryLogin, settings::RegistryLogin};
use anyhow::{Context as _, bail};
use console::Term;

use super::args;
use crate::{client::Client, terminal::say};

/// Tokens are a few kilobytes at most; a file given by mistake must not be swallowed.
const MAX_SECRET: u64 = 64 << 10;

pub(crate) async fn login(client: &Client, args: args::Login) -> anyhow::Result<()> {
    let host = args.host.clone();
    let forget = args.forget;
    let (username, secret) =
        if forget { (String::new(), String::new()) } else { credentials(&args)? };
    client
        .call::<PostRegistryLogin>(&RegistryLogin { host: host.clone(), username, secret })
        .await?;
    say(&if forget {
        format!("Nothing is kept for {host} any more.\n")
    } else {
        format!("The node uses this for pulls from {host}. To forget it, add --forget.\n")
    })
}

fn credentials(args: &args::Login) -> anyhow::Result<(String, String)> {
    let terminal = Term::stderr();
    let asks = std::io::stdin().is_terminal() && terminal.is_term();
    let username = match (&args.username, args.token) {
        (Some(username), _) => username.clone(),
        (None, true) => String::new(),
        (None, false) if asks && !args.password_stdin => {
            terminal.write_str("User name: ")?;
            terminal.read_line()?.trim().to_owned()
        }
        (None, false) => bail!("say who you are: --username NAME (or --token, which needs none)"),
    };
    if username.is_empty() && !args.token {
        bail!("the user name is empty; with an access token alone, add --token");
    }
    let secret = if args.password_stdin {
        from_stdin(std::io::stdin().lock())?
    } else if asks {
        terminal.write_str(if args.token { "Token: " } else { "Password: " })?;
        terminal.read_secure_line()?
    } else {
        bail!("there is no terminal to ask for the secret; pipe it in and add --password-stdin")
    };
    if secret.is_empty() {
        bail!("the secret is empty; to forget what is kept, use --forget");
    }
    Ok((username, secret))
}

fn from_stdin(input: impl std::io::Read) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = input
        .take(MAX_SECRET + 1)
        .read_to_string(&mut text)
        .context("cannot read the secret from stdin")?;
    if read as u64 > MAX_SECRET {
        bail!("the secret on stdin is longer than 64 KiB; is that the right file?");
    }
    // Files and `echo` end with a line break that is not part of the secret.
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    Ok(secret.strip_suffix('\r').unwrap_or(secret).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_at_the_end_is_not_part_of_the_secret() {
        for (input, secret) in
            [("s3cret\n", "s3cret"), ("s3cret\r\n", "s3cret"), ("a b \n\n", "a b \n"), ("", "")]
        {
            assert_eq!(from_stdin(input.as_bytes()).expect("reads"), secret);
        }
    }

    #[test]
    fn a_file_given_by_mistake_is_not_sent_as_a_secret() {
        let error = from_stdin(std::io::repeat(b'x')).expect_err("too long");
        assert!(error.to_string().contains("right file"), "{error}");
    }
}
