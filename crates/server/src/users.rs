//! Who may do what. Today: the user `default` with an optional password.
//!
//! Passwords are kept and compared as SHA-256 digests, in constant time, and a wrong user name costs
//! as much as a wrong password.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Users that all protocols share.
pub(crate) struct Users {
    default_password: Option<[u8; 32]>,
}

fn digest(password: &[u8]) -> [u8; 32] {
    Sha256::digest(password).into()
}

impl Users {
    /// The user `default` alone; an empty password asks for none.
    pub(crate) fn with_default_password(password: &str) -> Users {
        let default_password = (!password.is_empty()).then(|| digest(password.as_bytes()));
        Users { default_password }
    }

    pub(crate) fn asks_for_password(&self) -> bool {
        self.default_password.is_some()
    }

    /// Whether the pair is right. Without a configured password every password is.
    pub(crate) fn check(&self, user: &[u8], password: &[u8]) -> bool {
        let given = digest(password);
        let expected = self.default_password.unwrap_or(given);
        let password_fits = bool::from(given.ct_eq(&expected));
        let user_fits = bool::from(digest(user).ct_eq(&digest(b"default")));
        password_fits & user_fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_pair_is_let_in() {
        let users = Users::with_default_password("secret");
        assert!(users.asks_for_password());
        assert!(users.check(b"default", b"secret"));
        for (user, password) in
            [(&b"default"[..], &b"Secret"[..]), (b"root", b"secret"), (b"default", b"")]
        {
            assert!(!users.check(user, password));
        }
    }

    #[test]
    fn without_a_password_any_is_right_for_the_default_user() {
        let users = Users::with_default_password("");
        assert!(users.check(b"default", b"x") && !users.check(b"other", b"x"));
    }
}
