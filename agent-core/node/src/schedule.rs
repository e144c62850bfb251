//! `edgecoder-node schedule` and `edgecoder-node outbox`: tasks by the clock, results to webhooks.

pub(crate) mod args;
mod text;

use agent_api::{
    endpoint::{
        GetOutbox, ListSchedules, Nothing, PostDeliveryRemove, PostDeliveryRetry, PostSchedule,
        PostSchedulePause, PostScheduleRemove, PostScheduleRun,
    },
    tasks::{
        DeliveryPathId, DeliveryState, MissedRuns, NewSchedule, OutboxQuery, PauseSchedule,
        Schedule as ScheduleView, SchedulePathId,
    },
};
use agent_core::clock::now_ms;
use anyhow::bail;

use self::args::{Missed, Outbox, OutboxCommand, Schedule, ScheduleCommand, State};
use crate::{
    args::DataDir,
    client::Client,
    task::submit,
    terminal::{print_json, say},
};

/// Characters of an id's end that are enough to mean something, if no other ends so.
const MIN_TAIL: usize = 4;

pub(crate) async fn run(args: Schedule) -> anyhow::Result<()> {
    let client = &Client::connect(DataDir { data_dir: args.data_dir })?;
    match args.command {
        ScheduleCommand::List(args) => {
            let list = client.call::<ListSchedules>(&Nothing {}).await?;
            match args.json {
                true => print_json(&list),
                false => say(&text::schedules(&list.schedules, now_ms())),
            }
        }
        ScheduleCommand::Add(args) => add(client, *args).await,
        ScheduleCommand::Pause(args) => pause(client, &args.schedule, true).await,
        ScheduleCommand::Resume(args) => pause(client, &args.schedule, false).await,
        ScheduleCommand::Run(args) => {
            let id = find(client, &args.schedule).await?.id;
            let submitted = client.call::<PostScheduleRun>(&SchedulePathId { id }).await?;
            say(&format!("{}\n", submitted.id))
        }
        ScheduleCommand::Remove(args) => {
            let ScheduleView { id, name, .. } = find(client, &args.schedule).await?;
            client.call::<PostScheduleRemove>(&SchedulePathId { id }).await?;
            say(&format!("{name} is removed.\n"))
        }
    }
}

async fn add(client: &Client, args: args::Add) -> anyhow::Result<()> {
    let new = NewSchedule {
        name: args.name,
        cron: args.cron,
        zone: args.zone,
        task: submit::build(args.what)?,
        missed: match args.missed {
            Missed::Skip => MissedRuns::Skip,
            Missed::RunOnce => MissedRuns::RunOnce,
        },
        paused: false,
    };
    let schedule = client.call::<PostSchedule>(&new).await?;
    if args.output.json { print_json(&schedule) } else { say(&text::schedule(&schedule, now_ms())) }
}

async fn pause(client: &Client, named: &str, paused: bool) -> anyhow::Result<()> {
    let id = find(client, named).await?.id;
    let schedule = client.call::<PostSchedulePause>(&PauseSchedule { id, paused }).await?;
    say(&text::schedule(&schedule, now_ms()))
}

/// The schedule that is meant by its name, its id or the end of it.
async fn find(client: &Client, named: &str) -> anyhow::Result<ScheduleView> {
    let schedules = client.call::<ListSchedules>(&Nothing {}).await?.schedules;
    let place = pick(
        named,
        schedules.iter().map(|schedule| (schedule.id.0.as_str(), schedule.name.as_str())),
        "schedule",
    )?;
    // The place is one of the list's.
    schedules.into_iter().nth(place).ok_or_else(|| anyhow::anyhow!("the list changed"))
}

pub(crate) async fn outbox(args: Outbox) -> anyhow::Result<()> {
    let client = &Client::connect(DataDir { data_dir: args.data_dir })?;
    match args.command {
        OutboxCommand::List(args) => {
            let state = args.state.map(|state| match state {
                State::Waiting => DeliveryState::Waiting,
                State::Delivered => DeliveryState::Delivered,
                State::Dead => DeliveryState::Dead,
            });
            let list = client.call::<GetOutbox>(&OutboxQuery { state }).await?;
            match args.output.json {
                true => print_json(&list),
                false => say(&text::deliveries(&list.deliveries, now_ms())),
            }
        }
        OutboxCommand::Retry(args) => {
            let id = find_delivery(client, &args.delivery).await?;
            client.call::<PostDeliveryRetry>(&DeliveryPathId { id: id.clone() }).await?;
            say(&format!("{} is tried again.\n", text::short(&id)))
        }
        OutboxCommand::Remove(args) => {
            let id = find_delivery(client, &args.delivery).await?;
            client.call::<PostDeliveryRemove>(&DeliveryPathId { id: id.clone() }).await?;
            say(&format!("{} is removed.\n", text::short(&id)))
        }
    }
}

async fn find_delivery(client: &Client, named: &str) -> anyhow::Result<String> {
    // A whole id may be of a delivery that is too old for the list.
    if named.trim().len() == 36 {
        return Ok(named.trim().to_lowercase());
    }
    let deliveries = client.call::<GetOutbox>(&OutboxQuery::default()).await?.deliveries;
    let place = pick(named, deliveries.iter().map(|it| (it.id.as_str(), "")), "delivery")?;
    let found = deliveries.into_iter().nth(place);
    Ok(found.ok_or_else(|| anyhow::anyhow!("the list changed"))?.id)
}

/// Where in the list the one is that is called so.
fn pick<'a>(
    named: &str,
    known: impl Iterator<Item = (&'a str, &'a str)>,
    what: &str,
) -> anyhow::Result<usize> {
    let named = named.trim();
    let tail = named.to_lowercase();
    let meant: Vec<_> = known
        .enumerate()
        .filter(|(_, (id, name))| {
            let by_id = tail.len() >= MIN_TAIL && id.ends_with(&tail);
            by_id || (!name.is_empty() && *name == named)
        })
        .collect();
    match meant.as_slice() {
        [(place, _)] => Ok(*place),
        [] => bail!("there is no {what} {named:?}"),
        several => {
            let ids: Vec<_> = several.iter().take(5).map(|(_, (id, _))| text::short(id)).collect();
            bail!("{named:?} is more than one {what}: use the id ({})", ids.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_goes_by_its_name_or_the_end_of_its_id() {
        let known = [("s_00aaaa1111", "news"), ("s_00bbbb1111", "news"), ("s_00cccc2222", "tidy")];
        let found = |named: &str| pick(named, known.into_iter(), "schedule");
        assert_eq!(found("tidy").expect("one"), 2);
        assert_eq!(found("AAAA1111").expect("one"), 0);
        assert_eq!(found("s_00bbbb1111").expect("one"), 1);
        let error = found("news").expect_err("two").to_string();
        assert!(error.contains("aaaa1111") && error.contains("bbbb1111"), "{error}");
        assert!(found("22").expect_err("too short").to_string().contains("no schedule"));
    }
}
