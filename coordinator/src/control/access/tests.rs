use super::*;

fn run() -> (tempfile::TempDir, Token, Access) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let token = Token::random().expect("random");
    let access = Access::open(token.clone(), dir.path()).expect("no file of tokens yet");
    (dir, token, access)
}

/// Adds a token to the file, as `coordinator token create` does.
fn given(dir: &Path, name: &str, role: Role, expires: Option<u64>) -> Token {
    let token = Token::random().expect("random");
    let (hash, name) = (token_table::hash(&token), name.to_owned());
    let entry = TokenEntry { name, role, hash, created: 0, expires, revoked: None };
    token_table::change(dir, |table| {
        table.tokens.push(entry);
        Ok(())
    })
    .expect("written");
    token
}

fn revoke(dir: &Path, name: &str) {
    token_table::change(dir, |table| {
        let entry = table.tokens.iter_mut().find(|entry| entry.name == name);
        entry.expect("there").revoked = Some(token_table::now());
        Ok(())
    })
    .expect("written");
}

fn admit(access: &Access, token: &Token) -> Result<Caller, TokenRefusal> {
    access.admit(Some(&token.bearer()))
}

#[test]
fn each_role_may_do_its_own_and_the_runs_token_all() {
    let (dir, own, access) = run();
    let all = [Action::Read, Action::Join, Action::Operate];
    let check = |token: &Token, allowed: &[Action]| {
        let who = admit(&access, token).expect("admitted");
        for need in all {
            let may = who.may(need);
            assert_eq!(may.is_ok(), allowed.contains(&need), "{} {need:?}", who.name);
            if let Err(status) = may {
                let said = status.message();
                assert_eq!(status.code(), tonic::Code::PermissionDenied);
                assert!(said.contains(&*who.name) && said.contains(&who.role()), "{said}");
            }
        }
    };
    check(&own, &all);
    check(&given(dir.path(), "ann", Role::Viewer, None), &[Action::Read]);
    check(&given(dir.path(), "gpu-7", Role::Worker, None), &[Action::Join]);
    check(&given(dir.path(), "bob", Role::Operator, None), &[Action::Read, Action::Operate]);
    for value in [None, Some(""), Some("Bearer 07"), Some(Token::random().expect("random").bearer().as_str())]
    {
        assert_eq!(access.admit(value).err(), Some(TokenRefusal::Unknown), "{value:?}");
    }
}

#[test]
fn the_file_has_no_token_and_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, _, _) = run();
    let token = given(dir.path(), "ann", Role::Viewer, None);
    let path = dir.path().join("tokens.json");
    let text = std::fs::read_to_string(&path).expect("read");
    assert!(!text.contains(&token.to_hex()) && text.contains(&token_table::hash(&token)), "{text}");
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn whoever_was_admitted_hears_of_the_end_of_the_token() {
    let (dir, own, access) = run();
    let revoked = given(dir.path(), "gpu-7", Role::Worker, None);
    let kept = given(dir.path(), "gpu-8", Role::Worker, None);
    let removed = given(dir.path(), "gpu-9", Role::Worker, None);
    let who = |token: &Token| admit(&access, token).expect("admitted");
    let (first, second, third, all) = (who(&revoked), who(&kept), who(&removed), who(&own));
    let watching = access.watch();
    revoke(dir.path(), "gpu-7");
    let deadline = Duration::from_secs(60);
    let said = tokio::time::timeout(deadline, first.ended()).await.expect("told");
    assert!(said.contains("gpu-7"), "{said}");
    let refused = admit(&access, &revoked).expect_err("revoked");
    assert_eq!(refused, TokenRefusal::Ended { name: "gpu-7".into(), how: "was revoked" });
    token_table::change(dir.path(), |table| {
        table.tokens.retain(|entry| entry.name != "gpu-9");
        Ok(())
    })
    .expect("written");
    tokio::time::timeout(deadline, third.ended()).await.expect("told");
    let refused = admit(&access, &removed).expect_err("gone");
    assert_eq!(refused, TokenRefusal::Ended { name: "gpu-9".into(), how: "was revoked" });
    watching.abort();
    assert!(!*second.ended.borrow() && !*all.ended.borrow());
    who(&kept);
}

#[test]
fn a_token_expires_and_a_damaged_file_changes_nothing() {
    let (dir, _, access) = run();
    let old = given(dir.path(), "old", Role::Viewer, Some(token_table::now() - 1));
    let good = given(dir.path(), "good", Role::Viewer, Some(token_table::now() + 3_600));
    assert!(matches!(admit(&access, &old), Err(TokenRefusal::Ended { how: "has expired", .. })));
    let who = admit(&access, &good).expect("good for an hour");
    std::fs::write(dir.path().join("tokens.json"), "{\"tokens\": [{\"name\"").expect("written");
    let why = access.look().expect_err("damaged");
    assert!(why.contains("tokens.json") && why.contains("mend it"), "{why}");
    assert!(!*who.ended.borrow());
    admit(&access, &good).expect("what was read before counts");
    assert!(Access::open(Token::random().expect("random"), dir.path()).is_err(), "but no run starts with it");
}

#[test]
fn the_file_alone_revokes_when_it_is_removed_and_the_whole_folder_does_not() {
    for is_whole in [false, true] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("lock"), "").expect("written");
        let access = Access::open(Token::random().expect("random"), dir.path()).expect("no file yet");
        let token = given(dir.path(), "gpu-7", Role::Worker, None);
        let who = admit(&access, &token).expect("admitted");
        if is_whole {
            std::fs::remove_dir_all(dir.path()).expect("removed");
        } else {
            std::fs::remove_file(dir.path().join("tokens.json")).expect("removed");
        }
        access.look().expect("looked");
        assert_eq!(*who.ended.borrow(), !is_whole);
        assert_eq!(admit(&access, &token).is_ok(), is_whole);
    }
}

#[test]
fn names_fit_into_a_log() {
    for good in ["gpu-7", "ann", "a.b_c"] {
        token_table::check_name(good).unwrap_or_else(|why| panic!("{why}"));
    }
    for bad in ["", "run", "a b", "a\n", "é", &"x".repeat(65)] {
        assert!(token_table::check_name(bad).is_err(), "{bad:?}");
    }
}
