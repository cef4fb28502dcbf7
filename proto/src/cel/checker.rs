//! The types of an expression's parts, from the leaves up. Type variables are bound as they are met; an
//! overload that does not fit leaves no trace.

use std::collections::HashMap;

use kube_cel::cel::IdedExpr;
use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, ListExpr, LiteralValue, MapExpr, SelectExpr,
    operators,
};

use super::functions::{Overload, overloads};
use super::{Environment, Type};

/// More variables than a declaration has.
const VARIABLES: u32 = 26;
/// More names than what is known by several has, with dots between.
const SEGMENTS: usize = 4;

/// The type of an expression, and what is wrong with which of its parts.
pub fn check(expression: &IdedExpr, environment: &Environment) -> (Type, Vec<(u64, String)>) {
    let mut checker = Checker {
        environment,
        scopes: Vec::new(),
        bound: HashMap::new(),
        next: VARIABLES,
        found: Vec::new(),
    };
    let ty = checker.check(expression);
    (checker.settled(&ty), checker.found)
}

struct Checker<'a> {
    environment: &'a Environment,
    /// The variables of the comprehensions around, the innermost last.
    scopes: Vec<(String, Type)>,
    bound: HashMap<u32, Type>,
    /// The next variable that is not in use.
    next: u32,
    found: Vec<(u64, String)>,
}

impl Checker<'_> {
    fn check(&mut self, expression: &IdedExpr) -> Type {
        let id = expression.id;
        match &expression.expr {
            Expr::Unspecified => Type::Error,
            Expr::Literal(value) => literal(value),
            Expr::Ident(name) => self.lookup(name).unwrap_or_else(|| self.undeclared(id, name)),
            Expr::Select(select) => self.select(id, select, expression),
            Expr::Call(call) => self.call(id, call),
            Expr::List(list) => self.list(list),
            Expr::Map(map) => self.map(map),
            Expr::Struct(all) => self.undeclared(id, &all.type_name),
            Expr::Comprehension(all) => self.comprehension(all),
        }
    }

    fn wrong(&mut self, id: u64, message: String) -> Type {
        self.found.push((id, message));
        Type::Error
    }

    fn undeclared(&mut self, id: u64, name: &str) -> Type {
        self.wrong(id, format!("undeclared reference to '{name}' (in container '')"))
    }

    fn mismatch(&mut self, id: u64, expected: &Type, found: &Type) -> Type {
        let (expected, found) = (self.resolved(expected), self.resolved(found));
        self.wrong(id, format!("expected type '{expected}' but found '{found}'"))
    }

    fn lookup(&self, name: &str) -> Option<Type> {
        let scoped = self.scopes.iter().rev().find(|(own, _)| own == name).map(|(_, ty)| ty);
        let known = scoped.or_else(|| self.environment.variables.get(name)).cloned();
        known.or_else(|| Type::named(name).map(|ty| Type::Type(Box::new(ty))))
    }

    fn select(&mut self, id: u64, select: &SelectExpr, whole: &IdedExpr) -> Type {
        if let Some(name) = qualified(whole, SEGMENTS)
            && let Some(ty) = self.lookup(&name)
        {
            return ty;
        }
        let operand = self.check(&select.operand);
        let ty = self.field(id, &operand, &select.field);
        if select.test { Type::Bool } else { ty }
    }

    fn field(&mut self, id: u64, operand: &Type, name: &str) -> Type {
        let operand = self.resolved(operand);
        let optional = operand.optional_value().cloned();
        let target = optional.as_ref().unwrap_or(&operand);
        let ty = match target {
            Type::Map(_, value) => (**value).clone(),
            Type::Object(..) => match target.field(name) {
                Some(ty) => ty,
                None => self.wrong(id, format!("undefined field '{name}'")),
            },
            Type::Param(variable) => {
                self.bound.insert(*variable, Type::Dyn);
                Type::Dyn
            }
            open if open.is_open() => Type::Dyn,
            other => self.wrong(id, format!("type '{other}' does not support field selection")),
        };
        if optional.is_some() { Type::optional(ty) } else { ty }
    }

    fn call(&mut self, id: u64, call: &CallExpr) -> Type {
        let name = call.func_name.as_str();
        if name == operators::OPT_SELECT {
            return self.optional_select(id, call);
        }
        let mut types: Vec<Type> = call.args.iter().map(|argument| self.check(argument)).collect();
        let Some(target) = &call.target else {
            return match overloads(name) {
                Some(_) if [operators::LOGICAL_AND, operators::LOGICAL_OR].contains(&name) => {
                    self.logical(call, &types)
                }
                Some(overloads) => self.resolve(id, name, overloads, false, &types),
                None => self.undeclared(id, name),
            };
        };
        let long = qualified(target, SEGMENTS).map(|prefix| format!("{prefix}.{name}"));
        if let Some(name) = &long
            && let Some(overloads) = overloads(name)
        {
            return self.resolve(id, name, overloads, false, &types);
        }
        types.insert(0, self.check(target));
        match overloads(name) {
            Some(overloads) => self.resolve(id, name, overloads, true, &types),
            None => self.undeclared(id, name),
        }
    }

    /// `a.?b`: as `a.b`, of an optional value.
    fn optional_select(&mut self, id: u64, call: &CallExpr) -> Type {
        let [operand, field] = call.args.as_slice() else { return Type::Error };
        let Expr::Literal(LiteralValue::String(field)) = &field.expr else { return Type::Error };
        let operand = self.check(operand);
        let ty = self.field(id, &operand, field.inner());
        if ty.optional_value().is_some() { ty } else { Type::optional(ty) }
    }

    /// Each side is looked at for itself.
    fn logical(&mut self, call: &CallExpr, types: &[Type]) -> Type {
        let mut result = Type::Bool;
        for (argument, ty) in call.args.iter().zip(types) {
            if !self.assignable(std::slice::from_ref(ty), &[Type::Bool]) {
                result = self.mismatch(argument.id, &Type::Bool, ty);
            }
        }
        result
    }

    /// What the overloads that take these types result in.
    fn resolve(
        &mut self,
        id: u64,
        name: &str,
        overloads: &[Overload],
        member: bool,
        types: &[Type],
    ) -> Type {
        let mut result: Option<Type> = None;
        for overload in overloads.iter().filter(|overload| overload.member == member) {
            let base = self.fresh(VARIABLES);
            let arguments: Vec<Type> =
                overload.arguments.iter().map(|ty| moved(ty, base)).collect();
            if !self.assignable(types, &arguments) {
                continue;
            }
            let ty = self.resolved(&moved(&overload.result, base));
            result = Some(match result {
                Some(before) if before != ty => Type::Dyn,
                _ => ty,
            });
        }
        if let Some(result) = result {
            return result;
        }
        let shown: Vec<String> = types.iter().map(|ty| self.resolved(ty).to_string()).collect();
        let shown = match (member, shown.split_first()) {
            (true, Some((target, rest))) => format!("{target}.({})", rest.join(", ")),
            _ => format!("({})", shown.join(", ")),
        };
        self.wrong(id, format!("found no matching overload for '{name}' applied to '{shown}'"))
    }

    fn list(&mut self, list: &ListExpr) -> Type {
        let mut joined = None;
        for (index, element) in list.elements.iter().enumerate() {
            let mut ty = self.check(element);
            if list.optional_indices.contains(&index) {
                ty = self.unwrapped(element.id, ty);
            }
            joined = Some(self.join(element.id, joined, ty));
        }
        Type::list(joined.unwrap_or_else(|| Type::Param(self.fresh(1))))
    }

    fn map(&mut self, map: &MapExpr) -> Type {
        let (mut keys, mut values) = (None, None);
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
            let key = self.check(&entry.key);
            keys = Some(self.join(entry.key.id, keys, key));
            let mut value = self.check(&entry.value);
            if entry.optional {
                value = self.unwrapped(entry.value.id, value);
            }
            values = Some(self.join(entry.value.id, values, value));
        }
        match (keys, values) {
            (Some(key), Some(value)) => Type::map(key, value),
            _ => {
                let base = self.fresh(2);
                Type::map(Type::Param(base), Type::Param(base + 1))
            }
        }
    }

    /// What an optional entry may hold.
    fn unwrapped(&mut self, id: u64, ty: Type) -> Type {
        let ty = self.resolved(&ty);
        match ty.optional_value() {
            Some(value) => value.clone(),
            None if ty.is_open() => ty,
            None => self.mismatch(id, &Type::optional(ty.clone()), &ty),
        }
    }

    /// Elements of one literal are of one type.
    fn join(&mut self, id: u64, before: Option<Type>, ty: Type) -> Type {
        let Some(before) = before else { return ty };
        let both = (std::slice::from_ref(&before), std::slice::from_ref(&ty));
        if !self.assignable(both.0, both.1) {
            return self.mismatch(id, &before, &ty);
        }
        if ty.is_open() { ty } else { before }
    }

    fn comprehension(&mut self, all: &ComprehensionExpr) -> Type {
        let range = self.check(&all.iter_range);
        let accumulated = self.check(&all.accu_init);
        let range = self.resolved(&range);
        let (first, second) = match &range {
            Type::List(element) if all.iter_var2.is_some() => (Type::Int, (**element).clone()),
            Type::List(element) => ((**element).clone(), Type::Error),
            Type::Map(key, value) => ((**key).clone(), (**value).clone()),
            Type::Param(variable) => {
                self.bound.insert(*variable, Type::Dyn);
                (Type::Dyn, Type::Dyn)
            }
            open if open.is_open() => (Type::Dyn, Type::Dyn),
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be \
                     list, map, or dynamic)"
                );
                (self.wrong(all.iter_range.id, message), Type::Error)
            }
        };
        let outer = self.scopes.len();
        self.scopes.push((all.accu_var.clone(), accumulated.clone()));
        let inner = self.scopes.len();
        self.scopes.push((all.iter_var.clone(), first));
        if let Some(name) = &all.iter_var2 {
            self.scopes.push((name.clone(), second));
        }
        let condition = self.check(&all.loop_cond);
        self.expect(all.loop_cond.id, &Type::Bool, condition);
        let step = self.check(&all.loop_step);
        self.expect(all.loop_step.id, &accumulated, step);
        self.scopes.truncate(inner);
        let result = self.check(&all.result);
        self.scopes.truncate(outer);
        self.resolved(&result)
    }

    fn expect(&mut self, id: u64, expected: &Type, ty: Type) {
        if !self.assignable(std::slice::from_ref(expected), std::slice::from_ref(&ty)) {
            self.mismatch(id, expected, &ty);
        }
    }

    /// So many variables that nobody uses, by the first one.
    fn fresh(&mut self, count: u32) -> u32 {
        let base = self.next;
        self.next += count;
        base
    }

    /// With what its variables are bound to.
    fn resolved(&self, ty: &Type) -> Type {
        match ty {
            Type::Param(variable) => match self.bound.get(variable) {
                Some(bound) => self.resolved(bound),
                None => ty.clone(),
            },
            other => other.with_inner(|inner| self.resolved(inner)),
        }
    }

    /// The same, and whatever is not known by the end may be anything.
    fn settled(&self, ty: &Type) -> Type {
        match self.resolved(ty) {
            Type::Param(_) => Type::Dyn,
            other => other.with_inner(|inner| self.settled(inner)),
        }
    }

    /// Whether values of the second types can be had where the first are wanted, or the reverse.
    fn assignable(&mut self, first: &[Type], second: &[Type]) -> bool {
        let before = self.bound.clone();
        let fits = first.len() == second.len()
            && first.iter().zip(second).all(|(first, second)| self.unify(first, second));
        if !fits {
            self.bound = before;
        }
        fits
    }

    fn unify(&mut self, first: &Type, second: &Type) -> bool {
        match (first, second) {
            (Type::Param(one), Type::Param(other)) if one == other => true,
            (ty, Type::Param(variable)) | (Type::Param(variable), ty) => self.bind(*variable, ty),
            _ if first.is_open() || second.is_open() => true,
            (Type::Null, other) | (other, Type::Null) => other.takes_null(),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::Object(one, _), Type::Object(other, _)) => one == other,
            (Type::List(_), Type::List(_)) | (Type::Map(..), Type::Map(..)) => {
                self.unify_inner(first, second)
            }
            (Type::Opaque(one, _), Type::Opaque(other, _)) => {
                one == other && self.unify_inner(first, second)
            }
            _ => first == second,
        }
    }

    fn unify_inner(&mut self, first: &Type, second: &Type) -> bool {
        let (first, second) = (first.inner(), second.inner());
        first.len() == second.len()
            && first.into_iter().zip(second).all(|(first, second)| self.unify(first, second))
    }

    /// Binds a variable; one that is bound already becomes the more general of both.
    fn bind(&mut self, variable: u32, ty: &Type) -> bool {
        let ty = self.resolved(ty);
        match self.bound.get(&variable).cloned() {
            Some(bound) => {
                let fits = self.unify(&bound, &ty);
                if fits && ty.is_open() && !mentions(&ty, variable) {
                    self.bound.insert(variable, ty);
                }
                fits
            }
            None if ty == Type::Param(variable) => true,
            None if mentions(&ty, variable) => false,
            None => {
                self.bound.insert(variable, ty);
                true
            }
        }
    }
}

fn literal(value: &LiteralValue) -> Type {
    match value {
        LiteralValue::Boolean(_) => Type::Bool,
        LiteralValue::Bytes(_) => Type::Bytes,
        LiteralValue::Double(_) => Type::Double,
        LiteralValue::Int(_) => Type::Int,
        LiteralValue::Null => Type::Null,
        LiteralValue::String(_) => Type::String,
        LiteralValue::UInt(_) => Type::Uint,
    }
}

/// `a.b.c`, if it is no more than so many names.
fn qualified(expression: &IdedExpr, most: usize) -> Option<String> {
    match &expression.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test && most > 1 => {
            Some(format!("{}.{}", qualified(&select.operand, most - 1)?, select.field))
        }
        _ => None,
    }
}

/// A declaration's type with variables of its own.
fn moved(ty: &Type, base: u32) -> Type {
    match ty {
        Type::Param(variable) => Type::Param(base + variable),
        other => other.with_inner(|inner| moved(inner, base)),
    }
}

fn mentions(ty: &Type, variable: u32) -> bool {
    match ty {
        Type::Param(own) => *own == variable,
        other => other.inner().into_iter().any(|inner| mentions(inner, variable)),
    }
}
