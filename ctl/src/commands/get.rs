//! `ctl get`: tables as the server makes them, or the objects themselves; once or as they change.

use std::ops::ControlFlow;

use http::Method;
use http_body_util::BodyExt;
use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::output::table::{Shape, Table, of_server};
use crate::output::{self, Format};
use crate::resources::text;
use crate::session::{Session, query};
use crate::target::{Names, Target, singular};

const AS_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[derive(clap::Args)]
pub struct Get {
    #[command(flatten)]
    names: Names,
    /// json, yaml, name, wide, jsonpath=TEMPLATE
    #[arg(short, long)]
    output: Option<String>,
    /// After the first answer, show changes
    #[arg(short, long)]
    watch: bool,
    /// Only changes, without what is there
    #[arg(long)]
    watch_only: bool,
    /// All namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Field selector, as status.phase=Running
    #[arg(long, default_value = "", hide_default_value = true)]
    field_selector: String,
    /// Labels as columns of their own
    #[arg(short = 'L', long, value_delimiter = ',')]
    label_columns: Vec<String>,
    /// All labels as the last column
    #[arg(long)]
    show_labels: bool,
    /// Without the line of column names
    #[arg(long)]
    no_headers: bool,
    /// No error for objects that are not there
    #[arg(long)]
    ignore_not_found: bool,
    /// Keep managedFields in json and yaml
    #[arg(long)]
    show_managed_fields: bool,
    /// Read large collections in parts of this size
    #[arg(long, default_value_t = 500)]
    chunk_size: u32,
    /// Print what the server answers at this path
    #[arg(long, value_name = "PATH")]
    raw: Option<String>,
}

impl Get {
    pub async fn run(&self, session: &Session) -> Result<()> {
        if let Some(path) = &self.raw {
            let bytes = session.client.send(Method::GET, path, "", Default::default()).await?;
            anstream::print!("{}", String::from_utf8_lossy(&bytes));
            return Ok(());
        }
        let format = Format::parse(self.output.as_deref())?;
        if self.names.is_empty() {
            return Err(Failure::said(
                "you must specify the type of resource to get; \"ctl api-resources\" lists them",
            ));
        }
        let mut targets = self.names.targets(session).await?;
        if self.all_namespaces {
            if targets.iter().any(|target| !target.name.is_empty() && target.row.namespaced) {
                return Err(Failure::said(
                    "a resource cannot be retrieved by name across all namespaces",
                ));
            }
            targets.iter_mut().for_each(|target| target.namespace.clear());
        }
        let watches = self.watch || self.watch_only;
        match format {
            _ if watches && targets.len() > 1 => {
                Err(Failure::said("you may only specify a single resource type with --watch"))
            }
            Format::Table { wide } if watches => self.watch_table(session, &targets[0], wide).await,
            Format::Table { wide } => self.tables(session, &targets, wide).await,
            format if watches => self.watch_objects(session, &targets[0], &format).await,
            format => self.objects(session, &targets, &format).await,
        }
    }

    /// A table a kind; kinds apart by an empty line.
    async fn tables(&self, session: &Session, targets: &[Target], wide: bool) -> Result<()> {
        let several = targets.iter().any(|target| target.row != targets[0].row);
        let mut failed = None;
        let mut printed = false;
        let mut open: Option<(&Target, Table)> = None;
        for target in targets {
            let answer = match self.pages(session, target, AS_TABLE).await {
                Ok(answer) => answer,
                Err(error) if self.ignore_not_found && error.is_not_found() => continue,
                Err(error) => {
                    error.print();
                    failed = Some(Failure::Silent);
                    continue;
                }
            };
            if answer["rows"].as_array().is_none_or(Vec::is_empty) {
                continue;
            }
            if let Some((_, table)) = open.take_if(|(of, _)| of.row != target.row) {
                self.print(table, &mut printed, several);
            }
            let shape = self.shape(&target.row, wide, several);
            let table = open.take().map(|(_, table)| table);
            open = Some((target, of_server(&answer, &shape, table)));
        }
        if let Some((_, table)) = open {
            self.print(table, &mut printed, several);
        }
        match failed {
            Some(failure) => Err(failure),
            None => {
                if !printed && !self.ignore_not_found {
                    nothing_found(&targets[0]);
                }
                Ok(())
            }
        }
    }

    fn print(&self, mut table: Table, printed: &mut bool, several: bool) {
        if *printed && several {
            anstream::println!();
        }
        anstream::print!("{}", table.lines(!self.no_headers));
        *printed = true;
    }

    fn shape(&self, row: &proto::kind::Row, wide: bool, several: bool) -> Shape {
        Shape {
            wide,
            namespaces: self.all_namespaces && row.namespaced,
            labels: self.show_labels,
            label_columns: self.label_columns.clone(),
            prefix: if several { format!("{}/", singular(row)) } else { String::new() },
        }
    }

    async fn objects(&self, session: &Session, targets: &[Target], format: &Format) -> Result<()> {
        let mut items = Vec::new();
        for target in targets {
            match self.pages(session, target, "application/json").await {
                Ok(answer) => match answer["items"].as_array() {
                    Some(list) => items.extend(list.iter().map(|item| {
                        let mut item = item.clone();
                        item["apiVersion"] = target.row.api_version().into();
                        item["kind"] = target.row.kind.as_ref().into();
                        item
                    })),
                    None => items.push(answer),
                },
                Err(error) if self.ignore_not_found && error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let single = targets.len() == 1 && !targets[0].name.is_empty();
        let object = match items.len() {
            0 if single => return Ok(()),
            1 if single => items.swap_remove(0),
            _ => output::list(items),
        };
        let object = match self.show_managed_fields {
            true => object,
            false => output::without_managed_fields(object),
        };
        anstream::print!("{}", format.object(&object)?);
        Ok(())
    }

    /// One object, or a whole collection put together from its pages.
    async fn pages(&self, session: &Session, target: &Target, accept: &str) -> Result<Value> {
        let mut whole: Option<Value> = None;
        let mut token = String::new();
        let limit = self.chunk_size.to_string();
        loop {
            let single = !target.name.is_empty();
            let limit = if single || self.chunk_size == 0 { "" } else { &limit };
            let path = query(
                &target.path(),
                &[
                    ("labelSelector", if single { "" } else { &self.names.selector }),
                    ("fieldSelector", if single { "" } else { &self.field_selector }),
                    ("limit", limit),
                    ("continue", &token),
                ],
            );
            let response = session.get_as(&path, accept).await?;
            let body = response.into_body().collect().await;
            let body = body.map_err(|why| Failure::said(format!("{path}: {why}")))?.to_bytes();
            let mut page: Value = serde_json::from_slice(&body)
                .map_err(|why| Failure::said(format!("{path}: the answer is not JSON: {why}")))?;
            token = text(&page["metadata"]["continue"]).to_string();
            match &mut whole {
                None => whole = Some(page),
                Some(whole) => {
                    for field in ["rows", "items"] {
                        if let (Some(all), Some(more)) =
                            (whole[field].as_array_mut(), page[field].as_array_mut())
                        {
                            all.append(more);
                        }
                    }
                }
            }
            if token.is_empty() || single {
                return whole.ok_or(Failure::Silent);
            }
        }
    }

    async fn watch_table(&self, session: &Session, target: &Target, wide: bool) -> Result<()> {
        let shape = self.shape(&target.row, wide, false);
        let answer = self.pages(session, target, AS_TABLE).await?;
        let mut table = of_server(&answer, &shape, None);
        let mut heads = !self.no_headers;
        if self.watch_only {
            table.lines(false);
        } else if !table.is_empty() {
            anstream::print!("{}", table.lines(heads));
            heads = false;
        }
        let mut table = Some(table);
        let revision = revision(&answer, "rows");
        self.watch(session, target, &revision, AS_TABLE, |_, object| {
            let mut rows = of_server(object, &shape, table.take());
            anstream::print!("{}", rows.lines(std::mem::take(&mut heads)));
            table = Some(rows);
            Ok(())
        })
        .await
    }

    async fn watch_objects(
        &self,
        session: &Session,
        target: &Target,
        format: &Format,
    ) -> Result<()> {
        let answer = self.pages(session, target, "application/json").await?;
        let show = |object: &Value| {
            let object = match self.show_managed_fields {
                true => object.clone(),
                false => output::without_managed_fields(object.clone()),
            };
            anstream::print!("{}", format.object(&object)?);
            Ok(())
        };
        if !self.watch_only {
            match answer["items"].as_array() {
                Some(items) => items.iter().try_for_each(show)?,
                None => show(&answer)?,
            }
        }
        let revision = revision(&answer, "items");
        self.watch(session, target, &revision, "application/json", |_, object| show(object)).await
    }

    /// Calls `seen` with type and object of every change until the server ends the watch.
    async fn watch(
        &self,
        session: &Session,
        target: &Target,
        revision: &str,
        accept: &str,
        mut seen: impl FnMut(&str, &Value) -> Result<()>,
    ) -> Result<()> {
        let by_name = format!("metadata.name={}", target.name);
        let fields = if target.name.is_empty() { &self.field_selector } else { &by_name };
        let path = query(
            &target.row.path(&target.namespace, ""),
            &[
                ("watch", "true"),
                ("resourceVersion", revision),
                ("labelSelector", &self.names.selector),
                ("fieldSelector", fields),
            ],
        );
        let go_on =
            |kind: &str, object: &Value| seen(kind, object).map(|()| ControlFlow::Continue(()));
        session.watch(&path, accept, go_on).await
    }
}

/// From where a watch goes on after this answer. The table of one object has its revision in the
/// row's object.
fn revision(answer: &Value, items: &str) -> String {
    let own = text(&answer["metadata"]["resourceVersion"]);
    let row = text(&answer[items][0]["object"]["metadata"]["resourceVersion"]);
    if own.is_empty() { row.to_string() } else { own.to_string() }
}

fn nothing_found(target: &Target) {
    match target.namespace.as_str() {
        "" => anstream::eprintln!("No resources found"),
        namespace => anstream::eprintln!("No resources found in {namespace} namespace."),
    }
}
