"""Operations on packed rows that know nothing of the network: attention, dropout, random draws, compilation."""
