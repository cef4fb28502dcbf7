//! Query parameters, typed. Every verb reads its options here and nowhere else.

use std::borrow::Cow;

use proto::status::{FieldError, Status};

/// The parameters of a URL, decoded. Where one is given twice the first counts.
#[derive(Debug, Default)]
pub struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    pub fn parse(query: Option<&'a str>) -> Query<'a> {
        let query = query.unwrap_or_default();
        if query.is_empty() {
            return Query(Vec::new());
        }
        Query(url::form_urlencoded::parse(query.as_bytes()).collect())
    }

    /// Empty where absent.
    pub fn text(&self, name: &str) -> &str {
        self.find(name).unwrap_or_default()
    }

    pub fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// As Kubernetes reads booleans: anything but absent, `0` and `false` is true.
    pub fn flag(&self, name: &str) -> bool {
        match self.find(name) {
            None => false,
            Some(value) => !matches!(value, "0" | "false" | "False" | "FALSE"),
        }
    }

    /// A flag that may also be absent.
    pub fn optional_flag(&self, name: &str) -> Option<bool> {
        self.find(name).map(|_| self.flag(name))
    }

    pub fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        match self.find(name) {
            None | Some("") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
            }),
        }
    }
}

/// What to do about unknown and duplicate fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// The options that all writes share.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_validation: FieldValidation,
    /// Who owns the fields that are written.
    pub manager: String,
    /// Take over fields of other managers (apply only).
    pub force: Option<bool>,
}

impl WriteOptions {
    /// `options` names the type whose fields these are, as `CreateOptions`.
    pub fn parse(query: &Query, user_agent: &str, options: &str) -> Result<WriteOptions, Status> {
        let field_validation = match query.text("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                let supported = ["Ignore", "Strict", "Warn"];
                let error = FieldError::not_supported("fieldValidation", other, &supported);
                return Err(Status::invalid("meta.k8s.io", options, "", &[error]));
            }
        };
        let manager = match query.text("fieldManager") {
            "" => user_agent.split('/').next().unwrap_or_default(),
            manager => manager,
        };
        if query.text("fieldManager").len() > 128 {
            let error = FieldError::new(
                "fieldManager",
                proto::status::Problem::TooLong,
                "may not be more than 128 bytes",
            );
            return Err(Status::invalid("meta.k8s.io", options, "", &[error]));
        }
        Ok(WriteOptions {
            dry_run: dry_run(query.all("dryRun"), options)?,
            field_validation,
            manager: truncate(manager, 128).to_string(),
            force: query.optional_flag("force"),
        })
    }
}

/// `All` is the only stage there is.
pub fn dry_run<'q>(stages: impl Iterator<Item = &'q str>, options: &str) -> Result<bool, Status> {
    let mut dry = false;
    for stage in stages.filter(|stage| !stage.is_empty()) {
        if stage != "All" {
            let error = FieldError::not_supported("dryRun", stage, &["All"]);
            return Err(Status::invalid("meta.k8s.io", options, "", &[error]));
        }
        dry = true;
    }
    Ok(dry)
}

fn truncate(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_writes() {
        let parse = |query| WriteOptions::parse(&Query::parse(Some(query)), "kubectl/v1", "X");
        assert_eq!(parse("").unwrap().manager, "kubectl");
        assert_eq!(parse("fieldManager=me&dryRun=All").unwrap().manager, "me");
        assert!(parse("dryRun=All").unwrap().dry_run);
        assert_eq!(
            parse("fieldValidation=Strict").unwrap().field_validation,
            FieldValidation::Strict
        );
        assert_eq!(
            parse("dryRun=Some").unwrap_err().message,
            "X.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: \"Some\": supported values: \
             \"All\""
        );
        assert_eq!(parse("fieldValidation=x").unwrap_err().code, 422);
    }
}
