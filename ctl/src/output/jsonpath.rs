//! kubectl's JSONPath templates: text with `{…}` in it, `range`/`end`, quoted literals, fields,
//! indices, slices, wildcards, recursive descent, unions and filters (Kubernetes: JSONPath Support).

use serde_json::Value;

/// A parsed template.
#[derive(Debug, PartialEq)]
pub struct Template(Vec<Node>);

#[derive(Debug, PartialEq)]
enum Node {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Node>),
}

#[derive(Debug, PartialEq)]
enum Step {
    Root,
    Field(String),
    Wildcard,
    Descend,
    Index(i64),
    Slice(Option<i64>, Option<i64>, Option<i64>),
    Union(Vec<Step>),
    Filter(Box<Operand>, Option<(Comparison, Box<Operand>)>),
}

#[derive(Debug, PartialEq)]
enum Operand {
    Path(Vec<Step>),
    Literal(Value),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Template {
    /// Accepts the relaxed form without braces (`.metadata.name`) too.
    pub fn parse(text: &str) -> Result<Template, String> {
        let relaxed = !text.contains('{');
        let wrapped = match text {
            _ if !relaxed => text.to_string(),
            text if text.starts_with(['.', '[', '$', '@']) => format!("{{{text}}}"),
            text => format!("{{.{text}}}"),
        };
        let mut parser = Parser { rest: &wrapped };
        let nodes =
            parser.nodes(false).map_err(|why| format!("error parsing jsonpath {text}, {why}"))?;
        Ok(Template(nodes))
    }

    /// The text for one object; a missing field is an error unless `missing_is_empty`.
    pub fn print(&self, object: &Value, missing_is_empty: bool) -> Result<String, String> {
        let mut out = String::new();
        print(&self.0, object, object, missing_is_empty, &mut out)?;
        Ok(out)
    }

    /// The values that the single path of the template selects.
    pub fn select<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        let paths = self.0.iter().filter_map(|node| match node {
            Node::Path(steps) => Some(walk(steps, object, object)),
            _ => None,
        });
        paths.flatten().collect()
    }
}

fn print(
    nodes: &[Node],
    root: &Value,
    here: &Value,
    missing_is_empty: bool,
    out: &mut String,
) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Path(steps) => {
                let found = walk(steps, root, here);
                if found.is_empty()
                    && !missing_is_empty
                    && let Some(Step::Field(field)) = steps.last()
                {
                    return Err(format!("{field} is not found"));
                }
                let texts: Vec<String> = found.iter().map(|value| text(value)).collect();
                out.push_str(&texts.join(" "));
            }
            Node::Range(steps, body) => {
                for item in walk(steps, root, here) {
                    print(body, root, item, missing_is_empty, out)?;
                }
            }
        }
    }
    Ok(())
}

/// As kubectl prints a value: strings bare, everything else as JSON.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn walk<'a>(steps: &[Step], root: &'a Value, here: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![here];
    for step in steps {
        found = found.into_iter().flat_map(|value| take(step, root, value)).collect();
    }
    found
}

fn take<'a>(step: &Step, root: &'a Value, value: &'a Value) -> Vec<&'a Value> {
    match step {
        Step::Root => vec![root],
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Wildcard => children(value),
        Step::Descend => descend(value),
        Step::Index(index) => {
            let Some(list) = value.as_array() else { return Vec::new() };
            let at = if *index < 0 { index + list.len() as i64 } else { *index };
            usize::try_from(at).ok().and_then(|at| list.get(at)).into_iter().collect()
        }
        Step::Slice(from, to, step) => {
            let Some(list) = value.as_array() else { return Vec::new() };
            let length = list.len() as i64;
            let bound = |at: i64| if at < 0 { at + length } else { at }.clamp(0, length) as usize;
            let (from, to) = (bound(from.unwrap_or(0)), bound(to.unwrap_or(length)));
            let step = usize::try_from(step.unwrap_or(1)).unwrap_or(1).max(1);
            list.get(from..to.max(from)).unwrap_or_default().iter().step_by(step).collect()
        }
        Step::Union(steps) => steps.iter().flat_map(|step| take(step, root, value)).collect(),
        Step::Filter(left, test) => {
            let holds = |item: &&'a Value| keeps(left, test.as_ref(), root, item);
            children(value).into_iter().filter(holds).collect()
        }
    }
}

/// The value and everything below it, depth first.
fn descend(value: &Value) -> Vec<&Value> {
    let mut all = Vec::new();
    // A stack of its own: a deep object must not exhaust the thread's.
    let mut next = vec![value];
    while let Some(value) = next.pop() {
        all.push(value);
        next.extend(children(value).into_iter().rev());
    }
    all
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

fn keeps(
    left: &Operand,
    test: Option<&(Comparison, Box<Operand>)>,
    root: &Value,
    item: &Value,
) -> bool {
    let value = |operand: &Operand| match operand {
        Operand::Literal(value) => Some(value.clone()),
        Operand::Path(steps) => walk(steps, root, item).first().map(|value| (*value).clone()),
    };
    let Some(left) = value(left) else { return false };
    let Some((comparison, right)) = test else { return true };
    let Some(right) = value(right) else { return false };
    let order = match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left.partial_cmp(&right),
        _ => text(&left).partial_cmp(&text(&right)),
    };
    use std::cmp::Ordering::{Equal, Greater, Less};
    match comparison {
        Comparison::Equal => order == Some(Equal),
        Comparison::NotEqual => order != Some(Equal),
        Comparison::Less => order == Some(Less),
        Comparison::LessOrEqual => matches!(order, Some(Less | Equal)),
        Comparison::Greater => order == Some(Greater),
        Comparison::GreaterOrEqual => matches!(order, Some(Greater | Equal)),
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn nodes(&mut self, inside_range: bool) -> Result<Vec<Node>, String> {
        let mut nodes = Vec::new();
        loop {
            let Some(open) = self.rest.find('{') else {
                if inside_range {
                    return Err("unclosed range: missing {end}".into());
                }
                push_text(&mut nodes, self.rest);
                self.rest = "";
                return Ok(nodes);
            };
            push_text(&mut nodes, &self.rest[..open]);
            self.rest = self.rest[open + 1..].trim_start();
            if self.eat("end") {
                self.expect("}")?;
                return if inside_range { Ok(nodes) } else { Err("{end} without {range}".into()) };
            }
            if self.rest.starts_with("range") {
                self.eat("range");
                let steps = self.steps()?;
                self.expect("}")?;
                let body = self.nodes(true)?;
                nodes.push(Node::Range(steps, body));
                continue;
            }
            while !self.eat("}") {
                if self.rest.is_empty() {
                    return Err("unclosed action".into());
                }
                match self.literal()? {
                    Some(Value::String(text)) => nodes.push(Node::Text(text)),
                    Some(other) => nodes.push(Node::Text(other.to_string())),
                    None => nodes.push(Node::Path(self.steps()?)),
                }
                self.rest = self.rest.trim_start();
            }
        }
    }

    /// `.a.b[0]..c[?(@.x=="y")]`
    fn steps(&mut self) -> Result<Vec<Step>, String> {
        self.rest = self.rest.trim_start();
        let mut steps = Vec::new();
        let before = self.rest;
        if self.eat("$") {
            steps.push(Step::Root);
        } else {
            self.eat("@");
        }
        loop {
            if self.eat("..") {
                steps.push(Step::Descend);
                if !self.rest.starts_with('[') {
                    steps.push(self.field()?);
                }
            } else if self.rest.starts_with('.') {
                self.eat(".");
                if self.rest.starts_with(|c: char| is_name(c) || c == '*' || c == '\\') {
                    steps.push(self.field()?);
                }
            } else if self.eat("[") {
                steps.push(self.bracket()?);
            } else if before.len() == self.rest.len() {
                return Err(format!(
                    "unrecognized character in action: {:?}",
                    self.rest.chars().next()
                ));
            } else {
                return Ok(steps);
            }
        }
    }

    fn field(&mut self) -> Result<Step, String> {
        if self.eat("*") {
            return Ok(Step::Wildcard);
        }
        let mut name = String::new();
        let mut characters = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => name.extend(characters.next().map(|(_, escaped)| escaped)),
                character if is_name(character) => name.push(character),
                _ => {
                    end = at;
                    break;
                }
            }
        }
        self.rest = &self.rest[end..];
        if name.is_empty() { Err("empty field name".into()) } else { Ok(Step::Field(name)) }
    }

    fn bracket(&mut self) -> Result<Step, String> {
        self.rest = self.rest.trim_start();
        if self.eat("?(") {
            let left = self.operand()?;
            let test = match self.comparison() {
                Some(comparison) => Some((comparison, Box::new(self.operand()?))),
                None => None,
            };
            self.expect(")")?;
            self.expect("]")?;
            return Ok(Step::Filter(Box::new(left), test));
        }
        let mut union = Vec::new();
        loop {
            self.rest = self.rest.trim_start();
            union.push(self.selection()?);
            self.rest = self.rest.trim_start();
            if !self.eat(",") {
                break;
            }
        }
        self.expect("]")?;
        match union.len() {
            1 => Ok(union.remove(0)),
            _ => Ok(Step::Union(union)),
        }
    }

    /// One member of a bracket: a quoted name, a wildcard, an index or a slice.
    fn selection(&mut self) -> Result<Step, String> {
        if self.eat("*") {
            return Ok(Step::Wildcard);
        }
        if self.rest.starts_with(['\'', '"']) {
            return match self.literal()? {
                Some(Value::String(name)) => Ok(Step::Field(name)),
                _ => Err("a name in quotes is expected".into()),
            };
        }
        let from = self.integer();
        if !self.eat(":") {
            return from
                .map(Step::Index)
                .ok_or_else(|| format!("invalid array index {}", self.rest));
        }
        let to = self.integer();
        let step = if self.eat(":") { self.integer() } else { None };
        Ok(Step::Slice(from, to, step))
    }

    fn operand(&mut self) -> Result<Operand, String> {
        self.rest = self.rest.trim_start();
        let operand = match self.literal()? {
            Some(value) => Operand::Literal(value),
            None => Operand::Path(self.steps()?),
        };
        self.rest = self.rest.trim_start();
        Ok(operand)
    }

    fn comparison(&mut self) -> Option<Comparison> {
        use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
        let table = [
            ("==", Equal),
            ("!=", NotEqual),
            ("<=", LessOrEqual),
            (">=", GreaterOrEqual),
            ("<", Less),
            (">", Greater),
        ];
        table.into_iter().find(|(sign, _)| self.eat(sign)).map(|(_, comparison)| comparison)
    }

    /// A quoted text, a number or a boolean; `None` where something else stands.
    fn literal(&mut self) -> Result<Option<Value>, String> {
        let quote = match self.rest.chars().next() {
            Some(quote @ ('"' | '\'')) => quote,
            Some(first) if first.is_ascii_digit() || first == '-' => {
                let end = self.rest.find(|c: char| !c.is_ascii_digit() && !"-.eE".contains(c));
                let (number, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                self.rest = rest;
                return serde_json::from_str(number).map(Some).map_err(|why| why.to_string());
            }
            _ => {
                let word = [("true", true), ("false", false)];
                let found = word.into_iter().find(|(word, _)| self.eat(word));
                return Ok(found.map(|(_, value)| Value::Bool(value)));
            }
        };
        let mut text = String::new();
        let mut characters = self.rest.char_indices().skip(1);
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => text.extend(characters.next().map(|(_, escaped)| match escaped {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    other => other,
                })),
                character if character == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Ok(Some(Value::String(text)));
                }
                character => text.push(character),
            }
        }
        Err("unterminated quoted string".into())
    }

    fn integer(&mut self) -> Option<i64> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit() && c != '-');
        let (number, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        let number = number.parse().ok()?;
        self.rest = rest;
        Some(number)
    }

    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        self.rest = self.rest.trim_start();
        if self.eat(token) {
            Ok(())
        } else {
            Err(format!("{token} is expected at {:?}", self.rest))
        }
    }
}

fn push_text(nodes: &mut Vec<Node>, text: &str) {
    if !text.is_empty() {
        nodes.push(Node::Text(text.to_string()));
    }
}

fn is_name(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '-' | '/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn as_kubectl_documents_it() {
        let object = json!({"kind": "List", "items": [
            {"kind": "None", "metadata": {"name": "127.0.0.1", "labels": {"kubernetes.io/hostname": "a"}},
             "status": {"capacity": {"cpu": "4"}, "ready": true}},
            {"kind": "None", "metadata": {"name": "127.0.0.2"}, "status": {"capacity": {"cpu": "8"}}},
        ], "users": [{"name": "myself", "user": {}}, {"name": "e2e", "user": {"password": "secret"}}]});
        for (template, wanted) in [
            ("{.kind}", "List"),
            ("kind is {.kind}", "kind is List"),
            (".kind", "List"),
            ("{['kind']}", "List"),
            ("{.items[*].metadata.name}", "127.0.0.1 127.0.0.2"),
            ("{..name}", "127.0.0.1 127.0.0.2 myself e2e"),
            ("{.users[0].name}", "myself"),
            ("{.users[-1:].name}", "e2e"),
            ("{.users[-1].name}", "e2e"),
            ("{.items[*]['metadata.name', 'kind']}", "None None"),
            ("{.users[?(@.name==\"e2e\")].user.password}", "secret"),
            ("{.items[?(@.status.ready==true)].metadata.name}", "127.0.0.1"),
            (
                "{range .items[*]}[{.metadata.name}, {.status.capacity}] {end}",
                "[127.0.0.1, {\"cpu\":\"4\"}] [127.0.0.2, {\"cpu\":\"8\"}] ",
            ),
            (
                "{range .items[*]}{.metadata.name}{\"\\t\"}{.kind}{\"\\n\"}{end}",
                "127.0.0.1\tNone\n127.0.0.2\tNone\n",
            ),
            ("{.items[0].metadata.labels.kubernetes\\.io/hostname}", "a"),
        ] {
            let said = Template::parse(template).unwrap().print(&object, false);
            assert_eq!(said.as_deref(), Ok(wanted), "{template}");
        }
        let missing = Template::parse("{.nosuch}").unwrap();
        assert_eq!(missing.print(&object, false), Err("nosuch is not found".into()));
        assert_eq!(missing.print(&object, true), Ok(String::new()));
        for broken in ["{.a", "{range .items[*]}x", "{.a[}", "{end}", "{.a[?(@.b==]}"] {
            assert!(Template::parse(broken).is_err(), "{broken}");
        }
    }
}
