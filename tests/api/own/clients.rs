//! The HTTP clients that people write such programs with: Python's requests and Node's axios.

use super::house::House;
use crate::support::admin::TOKEN;
use crate::support::sdk::{Language, NODE, PYTHON};

async fn serves(house: House, language: &'static Language, script: &'static str) {
    let surroundings = [
        ("BASE_URL", house.rig.url()),
        ("ADMIN_URL", format!("http://{}", house.rig.process().admin)),
        ("ADMIN_TOKEN", TOKEN.to_owned()),
        ("API_KEY", String::new()),
    ];
    let run = tokio::task::spawn_blocking(move || language.run(&[script], &surroundings));
    run.await.unwrap();
}

async fn requests_of_python(house: House) {
    serves(house, &PYTHON, "test_trial_keys.py").await;
}

async fn axios_of_node(house: House) {
    serves(house, &NODE, "trial_keys.mjs").await;
}

on_both_stores!(requests_of_python, axios_of_node);
