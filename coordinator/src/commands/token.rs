//! The commands `coordinator token create|list|revoke`.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use datasets::registry::utc;
use wire::token::{Token, TokenLine};

use crate::cli::{CreateArgs, OutputForm, RevokeArgs};
use crate::control::access::token_table::{self, TokenEntry, TokenTable};
use crate::control::audit;
use crate::display;
use crate::run::prepare::StartError;

/// Prints the token's line once: the run keeps only a hash of it.
pub(crate) fn create(args: &CreateArgs, dir: &Path) -> Result<(), StartError> {
    token_table::check_name(&args.name).map_err(StartError::config)?;
    let own = dir.join("token");
    let fingerprint = match TokenLine::read(&own) {
        Ok(line) => line.fingerprint,
        Err(why) => {
            return Err(StartError::config(format!(
                "{why}: a run has tokens once its coordinator was started"
            )));
        }
    };
    let token = Token::random().map_err(|why| StartError::failed(format!("no random bytes: {why}")))?;
    let now = token_table::now();
    let entry = TokenEntry {
        name: args.name.clone(),
        role: args.role,
        hash: token_table::hash(&token),
        created: now,
        expires: args.expires.map(|span| now.saturating_add(span.as_secs())),
        revoked: None,
    };
    token_table::change(dir, |table| add(table, entry, now)).map_err(StartError::config)?;
    audit::record(dir, "token created", &args.name, &args.role.to_string());
    display::print(&TokenLine { token, fingerprint }.to_line());
    printable::error_line(format_args!(
        "this line is the token {:?} of {}, and is shown once: keep it in a file of mode 600 and name that with --token-file",
        args.name,
        args.role.with_article()
    ));
    Ok(())
}

fn add(table: &mut TokenTable, entry: TokenEntry, now: u64) -> Result<(), String> {
    // An ended token frees its name but stays listed, so that its holder is told why it was refused.
    if table.tokens.iter().any(|other| other.name == entry.name && other.ended(now).is_none()) {
        return Err(format!(
            "a token named {:?} is there: revoke it first (coordinator token revoke {0}), or take another name",
            entry.name
        ));
    }
    if table.tokens.len() >= token_table::TOKENS_MAX {
        // Ended tokens make room.
        table.tokens.retain(|other| other.ended(now).is_none());
    }
    if table.tokens.len() >= token_table::TOKENS_MAX {
        return Err(format!("the run has {} tokens, which is the most: revoke some", table.tokens.len()));
    }
    table.tokens.push(entry);
    Ok(())
}

pub(crate) fn list(dir: &Path, form: OutputForm) -> Result<(), StartError> {
    let table = TokenTable::read(dir).map_err(StartError::config)?;
    if form == OutputForm::Json {
        // Hashes stay out: nobody needs them.
        let rows: Vec<_> = table.tokens.iter().map(|entry| serde_json::json!({
            "name": entry.name, "role": entry.role, "created": entry.created, "expires": entry.expires,
            "revoked": entry.revoked, "state": state(entry),
        })).collect();
        printable::print_json(serde_json::Value::from(rows));
        return Ok(());
    }
    if table.tokens.is_empty() {
        display::print(&format!("no tokens but the run's own ({})", dir.join("token").display()));
        return Ok(());
    }
    display::print(&format!("{:<24} {:<9} {:<21} {:<21} STATE", "NAME", "ROLE", "CREATED", "EXPIRES"));
    for entry in &table.tokens {
        let (created, expires) = (at(entry.created), entry.expires.map_or_else(|| "never".to_owned(), at));
        display::print(&format!(
            "{:<24} {:<9} {created:<21} {expires:<21} {}",
            entry.name,
            entry.role.to_string(),
            state(entry)
        ));
    }
    Ok(())
}

fn state(entry: &TokenEntry) -> &'static str {
    match entry.ended(token_table::now()) {
        None => "good",
        Some(_) if entry.revoked.is_some() => "revoked",
        Some(_) => "expired",
    }
}

fn at(seconds: u64) -> String {
    // Clamps to four-digit years, whatever the file says.
    const YEAR_9999: u64 = 253_402_300_799;
    utc(UNIX_EPOCH + Duration::from_secs(seconds.min(YEAR_9999)))
}

pub(crate) fn revoke(args: &RevokeArgs, dir: &Path) -> Result<(), StartError> {
    if args.name == crate::control::access::RUN {
        return Err(StartError::config(format!(
            "the run's own token can't be revoked: stop the run, remove {}, and resume it, which makes another one",
            dir.join("token").display()
        )));
    }
    let role = token_table::change(dir, |table| {
        let mut known: Vec<_> = table.tokens.iter().map(|entry| entry.name.clone()).collect();
        known.dedup();
        let now = token_table::now();
        let of_name = || table.tokens.iter().enumerate().filter(|(_, entry)| entry.name == args.name);
        let found = of_name().find(|(_, entry)| entry.ended(now).is_none()).or_else(|| of_name().next_back());
        let found = found.map(|(place, _)| place);
        let entry = found.and_then(|place| table.tokens.get_mut(place));
        let entry = entry.ok_or_else(|| {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            format!("there is no token {:?} of {} (there are: {known})", args.name, dir.display())
        })?;
        entry.revoked.get_or_insert_with(token_table::now);
        Ok(entry.role)
    });
    let role = role.map_err(StartError::config)?;
    audit::record(dir, "token revoked", &args.name, &role.to_string());
    display::print(&format!("{} is revoked: a run that goes on hangs up on whoever came with it", args.name));
    Ok(())
}
