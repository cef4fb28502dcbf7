//! The CSV file of static bearer tokens.

use std::{collections::HashMap, path::Path, sync::Arc};

use proto::user::User;
use sha2::{Digest, Sha256};

#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    #[error("reading the token file {path}")]
    Read { path: String, source: std::io::Error },
    #[error("line {line} of the token file {path} must have at least token, user name and uid")]
    Columns { path: String, line: usize },
    #[error("line {line} of the token file {path} has an unfinished quote")]
    Quote { path: String, line: usize },
}

/// The users, by the digest of their token: looking one up takes a time that tells nothing about
/// how much of a token was right.
#[derive(Debug, Default)]
pub struct TokenFile(HashMap<[u8; 32], Arc<User>>);

impl TokenFile {
    /// A CSV file of `token,user,uid,"group1,group2"`.
    pub fn read(path: &Path) -> Result<TokenFile, TokenFileError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| TokenFileError::Read { path: name.clone(), source })?;
        TokenFile::parse(&name, &text)
    }

    pub fn find(&self, token: &str) -> Option<&Arc<User>> {
        self.0.get(&digest(token))
    }

    fn parse(path: &str, text: &str) -> Result<TokenFile, TokenFileError> {
        let mut tokens = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line_number = index + 1;
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let columns = columns(line)
                .ok_or_else(|| TokenFileError::Quote { path: path.into(), line: line_number })?;
            let [token, name, uid, rest @ ..] = columns.as_slice() else {
                return Err(TokenFileError::Columns { path: path.into(), line: line_number });
            };
            if token.is_empty() {
                continue;
            }
            let groups = rest.first().map(String::as_str).unwrap_or_default();
            let groups = groups.split(',').map(str::trim).filter(|group| !group.is_empty());
            let user = User {
                name: name.clone(),
                uid: uid.clone(),
                groups: groups.map(String::from).collect(),
                ..User::default()
            };
            tokens.insert(digest(token), Arc::new(super::authenticated(user)));
        }
        Ok(TokenFile(tokens))
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The columns of a CSV line; `None` for a quote that does not end.
fn columns(line: &str) -> Option<Vec<String>> {
    let mut columns = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let column = columns.last_mut().expect("there is always one");
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                column.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => columns.push(String::new()),
            ' ' if !quoted && column.is_empty() => {}
            c => column.push(c),
        }
    }
    (!quoted).then_some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::AUTHENTICATED;

    #[test]
    fn token_files() {
        let text = "t1,alice,1,\"devs,ops\"\n\n# no one\nt2,bob,2\n";
        let tokens = TokenFile::parse("f", text).unwrap();
        assert_eq!(tokens.find("t1").unwrap().groups, ["devs", "ops", AUTHENTICATED]);
        assert_eq!(tokens.find("t2").unwrap().name, "bob");
        assert!(tokens.find("t").is_none() && tokens.find("").is_none());
        assert_eq!(
            TokenFile::parse("f", "t1,alice\n").unwrap_err().to_string(),
            "line 1 of the token file f must have at least token, user name and uid"
        );
        assert!(TokenFile::parse("f", "t1,alice,1,\"devs").is_err());
    }
}
