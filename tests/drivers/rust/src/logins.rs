//! What comes of logins, and what a server tells of itself at one.

use std::error::Error as _;

use rustls::version::TLS12;
use serde_json::{Value, json};
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation};

use crate::session::{Failure, Place};
use crate::tls::Tls;

/// In a word, so that nothing of it names hosts.
async fn came_of(place: &Place, tls: &Tls, change: impl FnOnce(&mut Config)) -> String {
    let mut config = place.config.clone();
    change(&mut config);
    if config.get_hosts().is_empty() {
        config.host(&place.host);
    }
    let Err(error) = place.connect_as(&config, tls).await else { return "in".to_owned() };
    let words = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    match error.code() {
        Some(code) => code.code().to_owned(),
        None if words.contains("UnknownIssuer") => "another authority".to_owned(),
        None if words.contains("not valid for name") => "another name".to_owned(),
        None => words,
    }
}

/// With every mode of TLS, and with what is wrong.
pub async fn all(place: &Place) -> Result<Value, Failure> {
    let (tls, address) = (&place.tls, place.address().await?);
    let (strict, older) = (Tls::new(false, rustls::ALL_VERSIONS)?, Tls::new(true, &[&TLS12])?);
    let elsewhere = |config: &mut Config| {
        config.host("elsewhere.example").hostaddr(address);
    };
    Ok(json!({
        "no TLS": came_of(place, tls, |config| { config.ssl_mode(SslMode::Disable); }).await,
        "whatever": came_of(place, tls, |config| { config.ssl_mode(SslMode::Prefer); }).await,
        "verified": came_of(place, tls, |_| ()).await,
        "another name": came_of(place, tls, elsewhere).await,
        "another authority": came_of(place, &strict, |_| ()).await,
        "TLS 1.2": came_of(place, &older, |_| ()).await,
        "TLS at once": came_of(place, tls, |config| { config.ssl_negotiation(SslNegotiation::Direct); }).await,
        "bound to the channel": came_of(place, tls, |config| {
            config.channel_binding(ChannelBinding::Require);
        }).await,
        "not bound to it": came_of(place, tls, |config| {
            config.channel_binding(ChannelBinding::Disable);
        }).await,
        "wrong password": came_of(place, tls, |config| { config.password("wrong"); }).await,
        "no such database": came_of(place, tls, |config| { config.dbname("nowhere"); }).await,
        "no such setting": came_of(place, tls, |config| { config.options("-c no_such=1"); }).await,
    }))
}

/// What a server tells of itself.
pub async fn told(place: &Place) -> Result<Value, Failure> {
    let mut config = place.config.clone();
    let session = place
        .connect_as(
            config.host(&place.host).options("-c TimeZone=Asia/Tokyo -c DateStyle=German"),
            &place.tls,
        )
        .await?;
    Ok(session.told.clone())
}
