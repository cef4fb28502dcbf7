//! The macros that the parser leaves as calls, unfolded as cel-go unfolds them, so that what is wrong in
//! them is told of the same functions: those of optional values, and comprehensions of two variables.

use kube_cel::cel::IdedExpr;
use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, ListExpr, LiteralValue, MapExpr, operators,
};

/// What comprehensions gather in.
const RESULT: &str = "@result";

/// Unfolds whatever macros there are.
pub fn unfold(expression: &mut IdedExpr) {
    for part in parts(&mut expression.expr) {
        unfold(part);
    }
    let Expr::Call(call) = &expression.expr else { return };
    let Some(target) = call.target.as_deref() else { return };
    let maker = Maker { id: expression.id };
    let unfolded = match call.args.as_slice() {
        [variable, body] => maker.optional(&call.func_name, target, variable, body),
        [key, value, rest @ ..] => maker.comprehension(&call.func_name, target, [key, value], rest),
        _ => None,
    };
    if let Some(unfolded) = unfolded {
        *expression = unfolded;
    }
}

/// Makes of every `cel.bind(name, value, expression)` a loop that runs no turn: what it starts with has
/// the name in what it ends with.
pub fn bind(expression: &mut IdedExpr) {
    for part in parts(&mut expression.expr) {
        bind(part);
    }
    let Expr::Call(call) = &expression.expr else { return };
    let of_cel = call.target.as_ref().and_then(|it| name(it)).is_some_and(|name| name == "cel");
    let [variable, value, body] = call.args.as_slice() else { return };
    if call.func_name != "bind" || !of_cel {
        return;
    }
    let Some(variable) = name(variable) else { return };
    *expression = Maker { id: expression.id }.bound(variable, value.clone(), body.clone());
}

fn name(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Ident(name) => Some(name),
        _ => None,
    }
}

/// What an expression directly consists of.
fn parts(expression: &mut Expr) -> Vec<&mut IdedExpr> {
    fn of_entry(entry: &mut EntryExpr) -> Vec<&mut IdedExpr> {
        match entry {
            EntryExpr::StructField(field) => vec![&mut field.value],
            EntryExpr::MapEntry(entry) => vec![&mut entry.key, &mut entry.value],
        }
    }
    match expression {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
        Expr::Call(call) => call.target.as_deref_mut().into_iter().chain(&mut call.args).collect(),
        Expr::Select(select) => vec![&mut select.operand],
        Expr::List(list) => list.elements.iter_mut().collect(),
        Expr::Map(all) => all.entries.iter_mut().flat_map(|it| of_entry(&mut it.expr)).collect(),
        Expr::Struct(all) => all.entries.iter_mut().flat_map(|it| of_entry(&mut it.expr)).collect(),
        Expr::Comprehension(all) => {
            let ComprehensionExpr { iter_range, accu_init, loop_cond, loop_step, result, .. } =
                &mut **all;
            vec![iter_range, accu_init, loop_cond, loop_step, result]
        }
    }
}

/// Makes parts that stand where the macro stood.
struct Maker {
    id: u64,
}

impl Maker {
    fn made(&self, expr: Expr) -> IdedExpr {
        IdedExpr { id: self.id, expr }
    }

    fn name(&self, name: &str) -> IdedExpr {
        self.made(Expr::Ident(name.into()))
    }

    fn result(&self) -> IdedExpr {
        self.name(RESULT)
    }

    fn flag(&self, flag: bool) -> IdedExpr {
        self.made(Expr::Literal(LiteralValue::Boolean(flag.into())))
    }

    fn number(&self, number: i64) -> IdedExpr {
        self.made(Expr::Literal(LiteralValue::Int(number.into())))
    }

    fn list(&self, elements: Vec<IdedExpr>) -> IdedExpr {
        self.made(Expr::List(ListExpr::new(elements)))
    }

    fn call<const N: usize>(&self, name: &str, args: [IdedExpr; N]) -> IdedExpr {
        let call = CallExpr { func_name: name.into(), target: None, args: args.into() };
        self.made(Expr::Call(call))
    }

    fn method<const N: usize>(
        &self,
        target: IdedExpr,
        name: &str,
        args: [IdedExpr; N],
    ) -> IdedExpr {
        let target = Some(Box::new(target));
        self.made(Expr::Call(CallExpr { func_name: name.into(), target, args: args.into() }))
    }

    fn bound(&self, name: &str, value: IdedExpr, body: IdedExpr) -> IdedExpr {
        self.made(Expr::Comprehension(Box::new(ComprehensionExpr {
            iter_range: self.list(Vec::new()),
            iter_var: "#unused".into(),
            iter_var2: None,
            accu_var: name.into(),
            accu_init: value,
            loop_cond: self.flag(false),
            loop_step: self.name(name),
            result: body,
        })))
    }

    /// `optMap` and `optFlatMap`.
    fn optional(
        &self,
        macro_name: &str,
        target: &IdedExpr,
        variable: &IdedExpr,
        body: &IdedExpr,
    ) -> Option<IdedExpr> {
        let flat = match macro_name {
            "optMap" => false,
            "optFlatMap" => true,
            _ => return None,
        };
        let value = self.method(target.clone(), "value", []);
        let bound = self.bound(name(variable)?, value, body.clone());
        let of = |name, args: Vec<IdedExpr>| {
            let target = Some(Box::new(self.name("optional")));
            self.made(Expr::Call(CallExpr { func_name: String::from(name), target, args }))
        };
        let some = if flat { bound } else { of("of", vec![bound]) };
        let has = self.method(target.clone(), "hasValue", []);
        Some(self.call(operators::CONDITIONAL, [has, some, of("none", Vec::new())]))
    }

    /// Comprehensions over indexes or keys, and values.
    fn comprehension(
        &self,
        macro_name: &str,
        range: &IdedExpr,
        variables: [&IdedExpr; 2],
        rest: &[IdedExpr],
    ) -> Option<IdedExpr> {
        let [key, value] = variables;
        let (filter, body) = match rest {
            [body] => (None, body.clone()),
            [filter, body] => (Some(filter.clone()), body.clone()),
            _ => return None,
        };
        let start = || match macro_name {
            "all" => self.flag(true),
            "exists" => self.flag(false),
            "existsOne" | "exists_one" => self.number(0),
            "transformList" => self.list(Vec::new()),
            _ => self.made(Expr::Map(MapExpr { entries: Vec::new() })),
        };
        let goes_on = |flag| self.call(operators::NOT_STRICTLY_FALSE, [flag]);
        let (condition, step, result) = match (macro_name, &filter) {
            ("all", None) => {
                let step = self.call(operators::LOGICAL_AND, [self.result(), body]);
                (goes_on(self.result()), step, self.result())
            }
            ("exists", None) => {
                let none = self.call(operators::LOGICAL_NOT, [self.result()]);
                let step = self.call(operators::LOGICAL_OR, [self.result(), body]);
                (goes_on(none), step, self.result())
            }
            ("existsOne" | "exists_one", None) => {
                let more = self.call(operators::ADD, [self.result(), self.number(1)]);
                let step = self.call(operators::CONDITIONAL, [body, more, self.result()]);
                let one = self.call(operators::EQUALS, [self.result(), self.number(1)]);
                (self.flag(true), step, one)
            }
            ("transformList", _) => {
                let step = self.call(operators::ADD, [self.result(), self.list(vec![body])]);
                (self.flag(true), step, self.result())
            }
            ("transformMap", _) => {
                let step = self.call("cel.@mapInsert", [self.result(), key.clone(), body]);
                (self.flag(true), step, self.result())
            }
            ("transformMapEntry", _) => {
                let step = self.call("cel.@mapInsert", [self.result(), body]);
                (self.flag(true), step, self.result())
            }
            _ => return None,
        };
        let loop_step = match filter {
            Some(filter) => self.call(operators::CONDITIONAL, [filter, step, self.result()]),
            None => step,
        };
        Some(self.made(Expr::Comprehension(Box::new(ComprehensionExpr {
            iter_range: range.clone(),
            iter_var: name(key)?.into(),
            iter_var2: Some(name(value)?.into()),
            accu_var: RESULT.into(),
            accu_init: start(),
            loop_cond: condition,
            loop_step,
            result,
        }))))
    }
}
