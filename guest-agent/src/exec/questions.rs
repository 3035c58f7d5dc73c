//! What a supervised program asks, on its way to the host.

use super::failure::End;
use super::output::Outbox;
use ringfence_protocol::FromAgent;
use ringfence_sandbox::{Ended, Killer, Questions};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

/// Delivers every question until the execution has ended. The host's answers take their own way; a
/// host that does not read lets questions expire.
pub(super) async fn pump<W: AsyncWrite + Unpin>(
    questions: Option<Questions>,
    outbox: &Outbox<'_, W>,
    killer: &Killer,
) -> Result<(), End> {
    let Some(mut questions) = questions else {
        return Ok(());
    };
    let (sender, mut receiver) = mpsc::channel(1);
    // Ends with the execution.
    let reading = tokio::task::spawn_blocking(move || {
        while let Some(question) = questions.next_question() {
            if sender.blocking_send(question).is_err() {
                return;
            }
        }
    });
    while let Some(question) = receiver.recv().await {
        let message = FromAgent::Question(Box::new(question));
        if let Err(error) = outbox.send(&message).await {
            killer.kill(Ended::Killed);
            return Err(error.into());
        }
    }
    reading
        .await
        .map_err(|error| End::internal(error.to_string()))
}
