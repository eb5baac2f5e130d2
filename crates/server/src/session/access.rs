//! What a session may do: its user, and whether its keyspace is still there.
//!
//! Looked up again when the catalog has changed, and before the request that comes next. A user who
//! may do everything costs one comparison and one branch a request.

use std::sync::Arc;

use holdfast_base::KeyspaceId;
use holdfast_protocol::resp::{Args, Protocol};

use super::{Command, CommandError, Run, Session};
use crate::{
    catalog::Catalog,
    node::Node,
    users::{Account, DEFAULT_USER, Denied},
};

const NOAUTH: CommandError = CommandError::text("NOAUTH Authentication required.");

/// See the module's head.
pub(crate) struct Access {
    /// The catalog's word when it was last looked at.
    word: u64,
    account: Option<Arc<Account>>,
    keyspace_dropped: bool,
    /// Nothing needs a check.
    free: bool,
}

impl Access {
    /// Not logged in, nothing seen of the catalog.
    pub(super) fn none() -> Access {
        Access { word: 0, account: None, keyspace_dropped: false, free: false }
    }
}

impl Session {
    /// Becomes this user.
    pub(crate) fn log_in(&mut self, account: Arc<Account>) {
        self.access.account = Some(account);
        self.settle_access();
    }

    /// Becomes the user `default` if that one needs no password, else nobody.
    pub(crate) fn log_out(&mut self, node: &Node) {
        let seen = node.catalog.look(&node.shard);
        let default = seen.durable.account(DEFAULT_USER);
        self.access.account = default.filter(|account| account.is_open()).cloned();
        self.settle_access();
    }

    /// Goes on as what it was before the node was ready; `password` is the digest of the one that the
    /// user `default` had given.
    pub(crate) fn go_on(
        &mut self,
        node: &Node,
        protocol: Protocol,
        keyspace: KeyspaceId,
        password: Option<String>,
    ) {
        self.protocol = protocol;
        let seen = node.catalog.look(&node.shard);
        let default = seen.durable.account(DEFAULT_USER).filter(|account| account.user.enabled);
        if let (Some(account), Some(password)) = (default, password)
            && account.user.passwords.contains(&password)
        {
            self.log_in(account.clone());
        }
        self.select(keyspace);
    }

    /// Works on this keyspace from now on.
    pub(crate) fn select(&mut self, keyspace: KeyspaceId) {
        self.keyspace = keyspace;
        self.access.keyspace_dropped = false;
        self.settle_access();
    }

    /// The user's name, while logged in.
    pub(crate) fn user(&self) -> Option<&str> {
        self.access.account.as_ref().map(|account| account.name.as_str())
    }

    /// The keyspace was changed back: the next request looks whether it is there.
    pub(super) fn look_again(&mut self) {
        self.access.word = 0;
    }

    fn settle_access(&mut self) {
        let unlimited = self.access.account.as_ref().is_some_and(|user| user.is_unlimited());
        self.authenticated = self.access.account.is_some();
        self.access.free = unlimited && !self.access.keyspace_dropped;
    }

    /// Takes in what has changed in the catalog.
    #[inline]
    pub(super) fn refresh(&mut self, node: &Node) {
        if node.catalog.word() != self.access.word {
            self.look(&node.catalog, node);
        }
    }

    #[cold]
    fn look(&mut self, catalog: &Catalog, node: &Node) {
        let seen = catalog.look(&node.shard);
        self.access.word = seen.word;
        // Whoever was deleted or switched off is nobody; a later user of that name is another.
        self.access.account = self.access.account.take().and_then(|old| {
            let now = seen.durable.account(&old.name)?;
            (now.born == old.born && now.user.enabled).then(|| now.clone())
        });
        // A keyspace that this session has just made may not be durable yet.
        self.access.keyspace_dropped = seen.latest.keyspace_name(self.keyspace).is_none();
        self.settle_access();
    }

    /// Refuses what this session may not do.
    #[inline]
    pub(super) fn check(&self, command: &Command, args: Args<'_>) -> Result<(), CommandError> {
        if self.access.free { Ok(()) } else { self.check_rules(command, args) }
    }

    #[cold]
    fn check_rules(&self, command: &Command, args: Args<'_>) -> Result<(), CommandError> {
        let Some(account) = &self.access.account else {
            return if command.before_auth { Ok(()) } else { Err(NOAUTH) };
        };
        account.check(command, args).map_err(|denied| match denied {
            Denied::Command(name) => CommandError::Text(
                format!("NOPERM this user has no permissions to run the '{name}' command").into(),
            ),
            Denied::Key(_) => CommandError::text(
                "NOPERM this user has no permissions to access one of the keys used as arguments",
            ),
        })?;
        if self.access.keyspace_dropped && !matches!(command.run, Run::Session(_)) {
            let text = "ERR the selected keyspace was dropped: SELECT another";
            return Err(CommandError::text(text));
        }
        Ok(())
    }
}
